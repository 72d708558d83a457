"""Finds a running gateway and talks to it: problem documents become our errors again.

One client belongs to one thread. Nothing is retried here: only the caller knows what is safe.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from engine import errors
from engine.errors import BadInput, FirecellError, Unavailable
from engine.limits import CLIENT_CONNECT_S, CLIENT_TIMEOUT_S
from ops.options import settings_of
from topics import runfiles

_TYPE = "urn:firecell:problem:"
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def _kinds() -> dict[str, type[FirecellError]]:
    """`retention-passed` -> RetentionPassed, for the whole tree."""
    return {
        _WORD.sub("-", name).lower(): kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, FirecellError)
    }


_BY_STATUS: dict[int, type[FirecellError]] = {
    400: errors.BadInput,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    421: errors.WrongCell,
    422: errors.Unprocessable,
    429: errors.Unavailable,
    503: errors.Unavailable,
}


def error_of(status: int, body: bytes, retry_after: str = "") -> FirecellError:
    """The error that an answer tells of: by its problem type, else by its status."""
    try:
        problem = json.loads(body)
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, detail = {}, f"the server answered {status} without a reason"
    kind = _kinds().get(str(problem.get("type", "")).removeprefix(_TYPE))
    kind = kind or _BY_STATUS.get(status, FirecellError)
    standard = ("type", "title", "status", "detail", "field", "retry_after_s", "message")
    extra = {key: value for key, value in problem.items() if key not in standard}
    if issubclass(kind, BadInput):
        return kind(detail, str(problem.get("field", "")), **extra)
    if issubclass(kind, Unavailable):
        return kind(detail, int(retry_after) if retry_after.isdigit() else 1, **extra)
    return kind(detail, **extra)


class Client:
    """A gateway, or any process of Firecell, by its address."""

    def __init__(self, url: str, token: str = "", timeout_s: float = CLIENT_TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
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
