"""Which gateway coordinates the groups of a firehose in Kafka: the owner of the one partition of
`<topic>.gateways`, as long as it has Kafka's fresh word for it.

All gateways join one consumer group (`gateways/<topic>`: no public group can have that name) that
shares out one empty topic of one partition. Kafka gives the partition to one member, takes it away
when that one has been silent for a session, and leaves it where it is when others come
(cooperative-sticky). Nothing is ever written into the topic: the owner keeps a *place* in it, with
its URL as the place's metadata and a growing number as the offset. That write is the record that
the others read, and the confirmation, in one: Kafka refuses it from whoever is not in the group's
present generation, so a leader that slept through its succession can neither confirm nor lead
others astray.

Why no two ever coordinate at once
1. A leader counts on a confirmation for SESSION - MARGIN from *before* it asked for it, on a clock
   that counts through a machine's sleep. Stopped or cut off for longer, it is over, for ever: what
   it knew of groups is dropped, whatever Kafka says later (topics/groups_tenure.py).
2. Kafka evicts a member at the earliest one session after the last word from it. A confirmation is
   such a word and arrives after it was asked for; librdkafka's heartbeats, which go on by
   themselves while our threads hang, only move that further off. So an eviction falls behind (1).
3. That is not enough where Kafka forgets (a broker lost what it had not written, a person removed a
   member). So a new owner does not count on it: it reads the last record once it owns the partition
   - from then on the former owner's writes are refused - and begins one session after it, or while
   it was still waiting, first saw that record. As it looks every second, that time has mostly
   passed when Kafka evicts a dead leader. A leader that leaves says so in its record: no wait.
4. Places of groups are fenced: written only with KAFKA_FENCED_S of validity left, and such a write
   gives up after that. What remains is a request that lies in a stopped broker, or in a process
   stopped between the check and the call, for longer than that: it may set a place back, so that
   events come again. And what was in a connection's buffers is on its way: given before.

One thread does all of it; any thread may ask who leads, which asks nobody.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from engine.errors import FirecellError, NotFound, Unavailable
from engine.limits import (
    GATEWAY_URL_CHARACTERS_MAX,
    KAFKA_LEADER_ASK_S,
    KAFKA_LEADER_CONFIRM_S,
    KAFKA_LEADER_HEARTBEAT_S,
    KAFKA_LEADER_POLL_S,
    KAFKA_LEADER_READY_S,
    KAFKA_LEADER_SESSION_S,
    KAFKA_LEADER_STOP_S,
    RETENTION_MS_DEFAULT,
)
from topics.backoff import Backoff
from topics.catalog import gateways_group, gateways_topic
from topics.groups_lock import Tenure
from topics.groups_tenure import LOST, Sightings, Sign, TimedTenure
from topics.kafka_client import base_settings, failure_of, library
from topics.kafka_topic import KafkaTopic
from topics.urls import KafkaPlace, is_gateway

_log = logging.getLogger("firecell.groups")
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_NOBODY = "no gateway coordinates the firehose's groups just now: try again"
# The member is none any more: what it knows of groups may be old.
_OUT = frozenset({"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID"})


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """The metadata of the leader's place."""

    version: int
    holder: str
    url: str
    released: bool = False


_record_of = msgspec.json.Decoder(_Record)


def awake_clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class KafkaLeadership:
    """See topics/groups_lock.py:Leadership and the module. `url`: how others reach this gateway."""

    def __init__(
        self, place: KafkaPlace, url: str, clock: Callable[[], float] = awake_clock
    ) -> None:
        self._kafka = library()
        self._place = place
        self._topic = gateways_topic(place.topic)
        self._url = url[:GATEWAY_URL_CHARACTERS_MAX]
        self._clock = clock
        self._holder = secrets.token_hex(8)
        self._seen = Sightings(self._holder)
        self._tenure: TimedTenure | None = None
        self._owned = False
        self._due_s = 0.0
        self._known: str | None = None  # who leads, as the watchers were told: "" is this one
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._watchers: list[Callable[[], None]] = []
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    # --- asked from any thread ---

    def start(self, stopping: threading.Event) -> None:
        """Join the other gateways, in a thread. Returns once somebody leads, after
        KAFKA_LEADER_READY_S at the latest, or when `stopping`."""
        self._thread.start()
        deadline_s = self._clock() + KAFKA_LEADER_READY_S
        while not stopping.is_set() and self._clock() < deadline_s:
            if self._settled.wait(KAFKA_LEADER_POLL_S):
                return

    def leader(self) -> str | None:
        """See Leadership."""
        if self._holds():
            return None
        url = self._seen.leader(self._clock())
        if url is None:
            raise Unavailable(_NOBODY)
        if url == self._url:
            raise Unavailable(
                f"{_NOBODY}; if that lasts, another gateway says that it is at {url} too: set"
                " [http] url to where each of them is reached by the others"
            )
        return url

    def tenure(self) -> Tenure:
        """See Leadership."""
        tenure = self._tenure
        if tenure is None or not tenure.holds():
            raise Unavailable(LOST)
        return tenure

    def watch(self, changed: Callable[[], None]) -> None:
        """See Leadership."""
        self._watchers.append(changed)

    def release(self) -> None:
        """See Leadership. The thread is left behind when Kafka does not answer."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(KAFKA_LEADER_STOP_S)

    def _holds(self) -> bool:
        tenure = self._tenure
        return tenure is not None and tenure.holds()

    # --- the thread ---

    def _run(self) -> None:
        waits = Backoff()
        while not self._stopping.is_set():
            try:
                # As a firehose's topic is made: it has one partition, and is waited for.
                name, servers = self._topic, self._place.servers
                KafkaTopic(KafkaPlace(servers, name, self._place.replication)).open(
                    1, RETENTION_MS_DEFAULT, create=True, replication=self._place.replication
                )
                self._take_part(waits)
            except (FirecellError, self._kafka.KafkaException) as error:
                self._tell_trouble(str(error))
            except Exception:  # without this thread the gateway would refuse groups for ever
                _log.exception("the thread that coordinates the gateways begins anew")
            self._stopping.wait(waits.next_s())

    def _take_part(self, waits: Backoff) -> None:
        """Be a member, until told to stop."""
        consumer = self._kafka.Consumer(self._settings())
        try:
            consumer.subscribe(
                [self._topic], on_assign=self._got, on_revoke=self._lost, on_lost=self._lost
            )
            while not self._stopping.is_set():
                message = consumer.poll(KAFKA_LEADER_POLL_S)
                if message is not None and message.error() is not None:
                    self._take_error(message.error())
                if self._clock() >= self._due_s:
                    self._due_s = self._clock() + KAFKA_LEADER_CONFIRM_S
                    self._turn(consumer)
                    waits.reset()
                self._look()
        finally:
            self._leave(consumer)

    def _take_error(self, error: Any) -> None:
        """What passes is told; for the rest, begin anew: somebody deleted the topic."""
        failure = failure_of(error, "taking part in the gateways' group")
        if error.fatal() or isinstance(failure, NotFound):
            raise failure
        self._tell_trouble(failure.message)

    def _settings(self) -> dict[str, Any]:
        return base_settings(self._place.servers) | {
            "group.id": gateways_group(self._place.topic),
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": KAFKA_LEADER_SESSION_S * 1_000,
            "heartbeat.interval.ms": int(KAFKA_LEADER_HEARTBEAT_S * 1_000),
            "socket.timeout.ms": KAFKA_LEADER_ASK_S * 1_000,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "latest",  # of an empty topic that nobody reads
        }

    def _got(self, consumer: Any, partitions: list[Any]) -> None:
        """Kafka gives the partition. It is only owned: its place is no offset to read from."""
        for partition in partitions:
            partition.offset = self._kafka.OFFSET_END
        consumer.incremental_assign(partitions)
        if partitions:
            consumer.pause(partitions)
            self._owned, self._due_s = True, 0.0

    def _lost(self, consumer: Any, partitions: list[Any]) -> None:
        """Kafka takes it away, or has long since."""
        if partitions:
            self._owned = False
            self._end()

    def _turn(self, consumer: Any) -> None:
        """Confirm, or look who does; begin when one may."""
        try:
            if self._tenure is not None and self._holds():
                self._confirm(consumer, self._tenure)
                return
            self._end()
            self._seen.saw(self._read(consumer), self._clock())
            if self._owned and self._clock() >= self._seen.free_s():
                began_s = self._clock()
                self._write(consumer, released=False)
                self._tenure = TimedTenure(self._clock, began_s)
        except (FirecellError, self._kafka.KafkaException) as error:
            self._tell_trouble(str(error))
        else:
            self._trouble = ""

    def _confirm(self, consumer: Any, tenure: TimedTenure) -> None:
        began_s = self._clock()
        try:
            self._write(consumer, released=False)
        except FirecellError as error:
            if error.extra.get("out"):
                self._end()
            raise
        tenure.confirm(began_s)

    def _write(self, consumer: Any, *, released: bool) -> None:
        """The leader's place, and with it that Kafka still has it as the owner. Unavailable; with
        `out` when it is none."""
        record = _Record(1, self._holder, self._url, released)
        number = self._seen.number + 1
        text = msgspec.json.encode(record).decode()
        place = self._kafka.TopicPartition(self._topic, 0, number, text)
        what = "confirming which gateway coordinates groups"
        try:
            errors = [one.error for one in consumer.commit(offsets=[place], asynchronous=False)]
        except self._kafka.KafkaException as raised:
            errors = [raised.args[0]]
        for error in errors:
            if error is not None:
                out = error.name() in _OUT
                raise Unavailable(failure_of(error, what).message, out=out)
        self._seen.saw(Sign(number, self._holder, self._url, released), self._clock())

    def _read(self, consumer: Any) -> Sign | None:
        """The last leader's place."""
        asked = [self._kafka.TopicPartition(self._topic, 0)]
        what = "reading which gateway coordinates groups"
        try:
            found = consumer.committed(asked, timeout=KAFKA_LEADER_ASK_S)[0]
        except self._kafka.KafkaException as error:
            raise failure_of(error, what) from None
        if found.error is not None:
            raise failure_of(found.error, what)
        if found.offset < 0:
            return None
        try:
            record = _record_of.decode(found.metadata or "")
        except msgspec.MsgspecError:  # somebody's reset by hand: waited out like any other
            record = _Record(1, "", "", False)
        # Whoever may write to Kafka may have written it, and clients' tokens are sent there.
        url = record.url if is_gateway(record.url) else ""
        return Sign(found.offset, record.holder, url, record.released)

    def _leave(self, consumer: Any) -> None:
        """At the end: the next one may begin at once."""
        held = self._holds()
        self._end()
        try:
            if held and self._owned:
                self._write(consumer, released=True)
        except FirecellError as error:  # they will wait for the session's end
            _log.warning("%s", error.message)
        finally:
            self._owned = False
            consumer.close()

    def _end(self) -> None:
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            tenure.end()

    # --- what it tells ---

    def _look(self) -> None:
        """Tell the watchers and the log when another one leads than before."""
        known = "" if self._holds() else self._seen.leader(self._clock())
        if known == self._known:
            return
        if known is None:
            self._settled.clear()
        else:
            self._settled.set()
        self._known = known
        who = "nobody" if known is None else known or "this gateway"
        _log.info("%s coordinates the groups of %s", who, self._place.topic)
        for changed in self._watchers:
            changed()

    def _tell_trouble(self, text: str) -> None:
        self._look()
        if text != self._trouble:
            _log.warning("which gateway coordinates groups: %s", text)
        self._trouble = text
