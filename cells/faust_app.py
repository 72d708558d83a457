"""How a Faust app of a cell is set up: what is on, what is off, and what is refused (TRAPS 1-8).

`faust` is imported only when an app is built, so its extra is needed only then. An app belongs to
the loop that runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from cells.faust_consumer import transport_of
from engine import limits
from engine.errors import Misconfigured
from topics.kafka_client import library
from topics.urls import KafkaPlace

_log = logging.getLogger("firecell.faust")


class Taker(Protocol):
    """What is needed of `cells.app.FaustRunner`, or of what opens it later."""

    group: str
    place: KafkaPlace
    folder: Path
    shared: bool  # whether other workers of this cell may be in the group

    async def take(self, stream: Any) -> None:
        """Take batches until the stream ends."""


def build_app(
    taker: Taker,
    *,
    before: Callable[[], Awaitable[None]] | None = None,
    after: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """A Faust app whose one agent is `taker.take`. `before` runs before anything joins the group,
    `after` before the app stops. Misconfigured when the extra is missing."""
    faust = library("faust")
    library("cramjam")  # aiokafka's lz4; without it a worker dies at the first such batch

    class CellApp(faust.App):  # type: ignore[misc,name-defined]
        """The app, with our steps around its life."""

        class BootStrategy(faust.App.BootStrategy):  # type: ignore[misc,name-defined]
            """Faust's command line turns the web server on; it would listen on every address, and
            a second worker would find its port taken."""

            enable_web = False

        async def on_start(self) -> None:
            self.sensors.remove(self.monitor)  # it counts every event, and nobody asks it
            if before is not None:
                await before()
            await super().on_start()

        async def stop(self) -> None:
            if after is not None and not self.should_stop:
                await after()
            await super().stop()

    taker.folder.mkdir(parents=True, exist_ok=True)  # Faust makes its own in it, but not this one
    app = CellApp(**_settings(taker))
    app.transport = transport_of(app)
    topic = app.topic(
        taker.place.topic, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    agent = app.agent(topic, name=f"{taker.group}.fan-out", concurrency=1)

    @agent  # type: ignore[untyped-decorator]
    async def fan_out(stream: Any) -> None:
        await taker.take(stream)

    refuse_unsafe(app.conf)
    return app


async def leave(app: Any) -> None:
    """Commit what was acknowledged and leave the group; a dead broker is waited for so long only.
    """
    with contextlib.suppress(Exception):
        async with asyncio.timeout(limits.FAUST_STOP_S / 2):
            await app.consumer.commit()
    try:
        async with asyncio.timeout(limits.FAUST_STOP_S / 2):
            await app.stop()
    except TimeoutError:
        _log.warning("Faust's app did not stop within %s s", limits.FAUST_STOP_S / 2)
    except Exception as error:  # its own services; what was durable is durable
        _log.warning("Faust's app did not stop well: %s", error)


def refuse_unsafe(conf: Any) -> None:
    """Misconfigured for settings that lose or repeat events, or run foreign code."""
    wrong = [
        (conf.processing_guarantee.value != "at_least_once", "processing_guarantee: exactly_once"
         " has open bugs; the store's own position is exact already"),
        (any(url.scheme not in ("kafka", "aiokafka") for url in conf.broker),
         "broker: only kafka://; other transports read nothing or lose acknowledgements"),
        (str(conf.consumer_auto_offset_reset) != "none",
         "consumer_auto_offset_reset: anything but none skips events silently (I9)"),
        (conf.stream_wait_empty, "stream_wait_empty waits for ever when the store is away"),
        (conf.key_serializer != "raw" or conf.value_serializer != "raw",
         "serializers: only raw; pickle runs foreign code"),
        (conf.topic_allow_declare, "topic_allow_declare: only `firecell` makes topics"),
        (conf.web_enabled, "web_enabled: it listens on every address"),
        (conf.stream_publish_on_commit, "stream_publish_on_commit"),
    ]  # fmt: skip
    for found, what in wrong:
        if found:
            raise Misconfigured(f"the Faust app refuses {what}; remove that setting")


def _settings(taker: Taker) -> dict[str, Any]:
    servers = taker.place.servers.split(",")
    return {
        "id": taker.group,
        # The only worker keeps its name, so one that starts again takes the place of a killed one
        # at once, instead of waiting for that one's session to end.
        "consumer_group_instance_id": None if taker.shared else taker.group,
        "broker": [f"kafka://{server}" for server in servers],
        "autodiscover": False,
        "store": "memory://",
        "cache": "memory://",
        "datadir": str(taker.folder / "faust"),
        "processing_guarantee": "at_least_once",
        "key_serializer": "raw",
        "value_serializer": "raw",
        "consumer_auto_offset_reset": "none",
        "consumer_max_fetch_size": limits.FAUST_FETCH_BYTES,
        # Without it all that was fetched is unpacked in one go: seconds in which nothing else runs.
        "consumer_max_poll_records": limits.FAUST_POLL_EVENTS,
        "broker_session_timeout": limits.FAUST_SESSION_S,
        "broker_heartbeat_interval": limits.FAUST_HEARTBEAT_S,
        "broker_commit_interval": limits.FAUST_COMMIT_S,
        "broker_request_timeout": 2 * limits.FAUST_SESSION_S,
        "stream_buffer_maxsize": limits.FAUST_BUFFER_EVENTS,
        "stream_wait_empty": False,
        "stream_publish_on_commit": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        "worker_redirect_stdouts": False,
        "logging_config": _logging_of(taker.group.removeprefix("cell.")),
    }


def _logging_of(cell: str) -> dict[str, Any]:
    """Ours, for Faust's own command line: it takes handlers away, and needs one."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "topics.jsonlog.JsonLines", "role": "cell", "name": cell}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
    }
