"""Finds a running gateway and talks to it: problem documents become our errors again.

One client belongs to one thread. Nothing is retried here: only the caller knows what is safe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from engine.errors import BadInput, Unavailable
from engine.limits import CLIENT_CONNECT_S, CLIENT_TIMEOUT_S
from ops.options import settings_of
from topics import runfiles
from topics.client import Consumer
from topics.http_errors import error_of


class Client:
    """A gateway, or any process of Firecell, by its address."""

    def __init__(self, url: str, token: str = "", timeout_s: float = CLIENT_TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._token = token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=CLIENT_CONNECT_S),
                trust_env=False,  # a proxy of the environment has no business with loopback
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise BadInput(f"--url {url!r} is no URL: {error}", "url") from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON of a GET; parameters that are None are left out."""
        given = {key: str(value) for key, value in parameters.items() if value is not None}
        return self._json(self._send("GET", path, params=given))

    def post(self, path: str, document: Mapping[str, object]) -> Any:
        """The JSON of a POST of JSON."""
        return self._json(self._send("POST", path, json=dict(document)))

    def consume(self, **options: str) -> Consumer:
        """A consumer of the firehose; its own connection."""
        return Consumer(self.url, token=self._token, **options)

    def delete(self, path: str) -> Any:
        """The JSON of a DELETE."""
        return self._json(self._send("DELETE", path))

    def publish(self, event: Mapping[str, object]) -> Any:
        """Publish one event; `{"id", "position", "at"}`."""
        return self._json(self._send("POST", "/v1/events", json=dict(event)))

    def publish_lines(self, body: bytes) -> Iterator[bytes]:
        """Publish NDJSON; a result line per input line, in order, without its line end."""
        answer = self._send(
            "POST", "/v1/events", content=body, headers={"content-type": "application/x-ndjson"}
        )
        yield from answer.content.splitlines()

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.UnsupportedProtocol:
            raise BadInput(f"--url {self.url!r} is no URL: begin it with http://", "url") from None
        except httpx.ConnectError:
            raise Unavailable(f"nothing answers at {self.url}; is `firecell up` running?") from None
        except httpx.TimeoutException:
            raise Unavailable(f"no answer of {self.url} in time; see `firecell status`") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the connection to {self.url} broke: {error}") from None
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            retry_after = answer.headers.get("retry-after", "")
            raise error_of(answer.status_code, answer.content, retry_after)
        return answer

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise Unavailable(f"{self.url} answered no JSON; is it a Firecell?") from None


def connect(config: Path | None, url: str | None) -> Client:
    """A client of `--url`, FIRECELL_URL, the gateway that runs on the configured data folder, or,
    when none does, of one that runs as long as the command."""
    token = os.environ.get("FIRECELL_TOKEN", "")
    named = url or os.environ.get("FIRECELL_URL", "")
    if named:
        return Client(named, token)
    settings = settings_of(config)
    gateways = runfiles.running(settings.data.folder, "gateway")
    if not gateways:
        from ops.local import LocalClient  # it is a Client of this module

        return LocalClient(config, token)
    return Client(gateways[0].url, token)
