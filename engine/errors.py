"""The one tree of errors. Each message says what happened, to what, and what to do now.

FirecellError                      HTTP  exit
|- BadInput                         400   2   malformed: names the field
|  |- TooLarge                      413   2
|- Unprocessable                    422   1   well-formed, but impossible
|- Unauthorized / Forbidden      401/403  1
|- NotFound                         404   4
|  |- Gone                          410   4   a deleted post
|- Conflict                         409   3
|  |- WrongCell                     421   3   the reader's home is another cell
|- Precondition                     409   3   not now: a lock is held, a group is active
|  |- RetentionPassed               410   3   below the oldest kept event: names the floor
|- Unavailable                      503   1   a dependency's failure, never bad input (I11)
|  |- DiskFull                      503   1
|- Misconfigured                    500   2
|- Corruption                       500   3   our own data is wrong: stop, loudly (I11)
"""

from __future__ import annotations


class FirecellError(Exception):
    """Root of the tree. `status` is the HTTP status, `exit_code` the command line's."""

    status = 500
    exit_code = 1

    def __init__(self, message: str, **extra: object) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra  # more members of the problem document, JSON-ready


class BadInput(FirecellError):
    """Malformed input; `field` names where."""

    status = 400
    exit_code = 2

    def __init__(self, message: str, field: str = "", **extra: object) -> None:
        super().__init__(message, **({"field": field} if field else {}), **extra)
        self.field = field


class TooLarge(BadInput):
    """More bytes than `engine.limits` allows."""

    status = 413


class Unprocessable(FirecellError):
    """Well-formed, but impossible: such as an id from the future."""

    status = 422


class Unauthorized(FirecellError):
    """No token, or none that we know."""

    status = 401


class Forbidden(FirecellError):
    """A token without the scope, a foreign Origin or Host."""

    status = 403


class NotFound(FirecellError):
    """What was named does not exist."""

    status = 404
    exit_code = 4


class Gone(NotFound):
    """A post that was deleted."""

    status = 410


class Conflict(FirecellError):
    """What was asked contradicts what is."""

    status = 409
    exit_code = 3


class WrongCell(Conflict):
    """The reader's home is another cell."""

    status = 421


class Precondition(FirecellError):
    """Not now: something else must happen first, and the message says what."""

    status = 409
    exit_code = 3


class RetentionPassed(Precondition):
    """A position below the oldest kept event; `extra["floor"]` tells where the log begins."""

    status = 410


class Unavailable(FirecellError):
    """A dependency failed; try again after `retry_after_s` seconds."""

    status = 503

    def __init__(self, message: str, retry_after_s: int = 1, **extra: object) -> None:
        super().__init__(message, **extra)
        self.retry_after_s = retry_after_s


class DiskFull(Unavailable):
    """No space left: free some; what was acknowledged is safe."""


class Misconfigured(FirecellError):
    """A setting is wrong; the message names it."""

    exit_code = 2


class Corruption(FirecellError):
    """Our own data contradict themselves. Never continue over it."""

    exit_code = 3  # a person must restore something first: starting again does not help


def invariant(condition: bool, message: str) -> None:
    """Raise `Corruption` unless `condition` holds. Stays on under `python -O`."""
    if not condition:
        raise Corruption(f"invariant broken: {message}")
