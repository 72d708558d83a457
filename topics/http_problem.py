"""Errors as RFC 9457 problem documents: the only place where an error becomes an answer.

Details of our own failures (status 500) stay in the log; everything else says what happened, to
what, and what to do now. Pure functions, safe from any thread.
"""

from __future__ import annotations

import logging
import re
import traceback
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from engine.errors import BadInput, FirecellError, Unauthorized, Unavailable

PROBLEM_TYPE = "application/problem+json"
_HIDDEN = "an internal error; the log of this process has the details"
_WORD = re.compile(r"(?<!^)(?=[A-Z])")
_log = logging.getLogger("firecell.http")


def refused(status: int, message: str, field: str = "") -> BadInput:
    """Bad input with an HTTP status that the tree has no class for: 405, 408, 415, 431."""
    error = BadInput(message, field)
    error.status = status
    return error


def too_many(message: str, retry_after_s: int = 1) -> Unavailable:
    """429: not a failure of ours, the caller holds too much at once."""
    error = Unavailable(message, retry_after_s)
    error.status = 429
    return error


def problem_of(error: FirecellError) -> dict[str, Any]:
    """The problem document's members; those of `error.extra` never replace the standard ones."""
    hidden = error.status == HTTPStatus.INTERNAL_SERVER_ERROR
    name = _WORD.sub("-", type(error).__name__).lower()
    extra = {} if hidden else error.extra
    return {
        **extra,
        "type": f"urn:firecell:problem:{name}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": _HIDDEN if hidden else error.message,
    }


def problem_bytes(error: FirecellError) -> bytes:
    """`problem_of` as JSON."""
    return msgspec.json.encode(problem_of(error), enc_hook=str)


def problem_response(error: FirecellError, *, allow: str = "", close: bool = False) -> Response:
    """The answer that says `error`; `close` ends the connection behind it."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="firecell"'
    if allow:
        headers["allow"] = allow
    if close:
        headers["connection"] = "close"
    return Response(problem_bytes(error), error.status, headers, PROBLEM_TYPE)


def log_failure(error: BaseException, route: str) -> None:
    """Log an unexpected error: type and stack only, since a message may hold a body or a token."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed: %s\n%s", route, type(error).__name__, stack)
