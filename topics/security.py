"""Who may ask what (DESIGN 11).

Loopback without tokens: the Host must be this machine's and an Origin must be our own, so that no
page of a browser reaches us. With tokens: `Authorization: Bearer`, a scope per route, a bound on
what one token holds at once. Any other bind address refuses to start without tokens. There are no
CORS headers anywhere. A `Guard` is used from one event loop.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from engine.errors import Forbidden, Misconfigured, Unauthorized
from engine.limits import CONNECTIONS_PER_TOKEN_MAX, HTTP_HOSTS_CACHED_MAX
from topics.http_body import Headers
from topics.http_problem import too_many

_LOCAL_HOSTS = (b"127.0.0.1", b"localhost", b"[::1]")
_SLOW_HEADERS = frozenset(
    (
        b"origin", b"sec-fetch-site", b"x-request-id", b"content-length", b"transfer-encoding",
        b"expect",
    )
)


class Tokens(Protocol):
    """The known tokens (topics/tokens.py): hashed, compared in constant time."""

    def check(self, token: str) -> Collection[str] | None:
        """The token's scopes; None for an unknown one."""


def is_loopback(host: str) -> bool:
    """Whether a bind address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Checks every request of one process. Misconfigured for an open address without tokens."""

    def __init__(self, host: str, tokens: Tokens | None = None) -> None:
        if tokens is None and not is_loopback(host):
            raise Misconfigured(
                f"bind address {host!r} is not loopback and there are no tokens: make some with"
                " `firecell tokens create --scope S`, or bind 127.0.0.1"
            )
        self.tokens = tokens
        self._hosts: dict[bytes, bool] = {}
        self._held: Counter[bytes] = Counter()

    def waves_through(self, headers: Headers) -> bool:
        """The hot path's check: True only for what needs no look at all, else ask `check`."""
        if self.tokens is not None:
            return False
        host = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return False
                host = value
            elif name in _SLOW_HEADERS:
                return False
        return host is not None and self._hosts.get(host, False)

    def check(self, headers: Headers) -> None:
        """Forbidden for a foreign Host or Origin, on loopback without tokens."""
        if self.tokens is not None:
            return
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_local(hosts[0]):
            raise Forbidden("the Host header names another machine: ask for 127.0.0.1 or localhost")
        own = (b"http://" + hosts[0].lower(), b"https://" + hosts[0].lower())
        for name, value in headers:
            if name == b"origin" and value.lower() not in own:
                raise Forbidden("a page of another origin asked: there is no CORS here")
            # An <img> or a no-cors fetch sends no Origin, and a GET may join a group.
            if name == b"sec-fetch-site" and value.lower() not in (b"same-origin", b"none"):
                raise Forbidden("a page of another origin asked: there is no CORS here")

    def _is_local(self, host: bytes) -> bool:
        verdict = self._hosts.get(host)
        if verdict is None:
            verdict = _names_this_machine(host.lower())
            if len(self._hosts) < HTTP_HOSTS_CACHED_MAX:
                self._hosts[host] = verdict
        return verdict

    @contextmanager
    def admitted(self, headers: Headers, scope: str) -> Iterator[None]:
        """Hold one of the token's places while the request runs.

        Unauthorized without a known token, Forbidden without the scope, 429 past the bound.
        """
        if self.tokens is None or not scope:
            yield
            return
        token = _bearer(headers)
        scopes = self.tokens.check(token)
        if scopes is None:
            raise Unauthorized("an unknown token: `firecell tokens create` makes one")
        if scope not in scopes:
            raise Forbidden(f"the token lacks the scope {scope!r}", scope=scope)
        holder = hashlib.sha256(token.encode()).digest()
        if self._held[holder] >= CONNECTIONS_PER_TOKEN_MAX:
            raise too_many(f"the token holds {CONNECTIONS_PER_TOKEN_MAX} requests already")
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]


def _names_this_machine(host: bytes) -> bool:
    for name in _LOCAL_HOSTS:
        if host == name:
            return True
        if host.startswith(name + b":"):
            port = host[len(name) + 1 :]
            return port.isdigit() and len(port) <= len("65535")
    return False


def _bearer(headers: Headers) -> str:
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthorized("a token is needed: send `Authorization: Bearer ...`")
    return token.strip().decode("latin-1")
