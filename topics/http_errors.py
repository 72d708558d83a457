"""Problem documents become our errors again: what a client makes of an answer. Pure."""

from __future__ import annotations

import json
import re

from engine import errors
from engine.errors import BadInput, FirecellError, Unavailable

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
