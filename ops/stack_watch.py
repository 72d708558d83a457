"""`stack up --foreground`: stay, and end the stack with this process. Main thread only."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.errors import Unavailable
from engine.limits import STACK_WATCH_S
from ops.stack_processes import living
from ops.stack_run import Stack


def stay(stack: Stack, announce: Callable[[], None]) -> None:
    """Announce that it is up, and return after Ctrl-C or TERM (which must raise KeyboardInterrupt), everything stopped.
    Unavailable, everything stopped as well, when a server ended by itself."""
    try:
        announce()
        while True:
            gone = [name for name in stack.plan.servers if living(stack.folder, name) is None]
            if gone:
                raise Unavailable(f"{', '.join(gone)} ended; see {stack.plan.logs()}")
            time.sleep(STACK_WATCH_S)
    except KeyboardInterrupt:
        return
    finally:
        stack.down()
