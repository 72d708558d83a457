"""`stack up --foreground`: stay, start again what ends, and end the stack with this process.

Main thread only. A guard (ops/stack_guard.py) ends the stack should this process be killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.errors import FirecellError
from engine.limits import RESTART_FIRST_MS, RESTART_HEALTHY_S
from engine.limits_stack import STACK_RESTART_MS_MAX, STACK_WATCH_S
from ops import stack_processes
from ops.stack_processes import living
from ops.stack_run import Stack
from ops.stack_status import diary
from topics.backoff import Backoff


def stay(stack: Stack, announce: Callable[[], None], say: Callable[[str], None]) -> None:
    """Announce that it is up, and return after Ctrl-C or TERM (which must raise KeyboardInterrupt)
    or after `stack down` of another process; everything is stopped then.

    A server that ends by itself is told of and started again, with backoff."""
    try:
        announce()
        waits, trouble = Backoff(RESTART_FIRST_MS, STACK_RESTART_MS_MAX), time.monotonic()
        while True:
            time.sleep(STACK_WATCH_S)
            gone = [name for name in stack.plan.servers if living(stack.folder, name) is None]
            if not gone:
                if time.monotonic() - trouble > RESTART_HEALTHY_S:
                    waits.reset()
                continue
            if _was_stopped(stack):
                say("stopped by `firecell stack down`")
                return
            trouble, wait_s = time.monotonic(), waits.next_s()
            for name in gone:
                words = stack_processes.last_words(diary(stack.plan, name))
                say(f"{name} ended, again in {wait_s:.1f} s; its last words: {words}")
            time.sleep(wait_s)
            try:
                for name in stack.revive():
                    say(f"{name}: started again, process {_process(stack, name)}")
            except FirecellError as error:  # the next round tries again
                say(error.message)
    except KeyboardInterrupt:
        return
    finally:
        stack.down()


def _was_stopped(stack: Stack) -> bool:
    """Whether no server is known any more: a crash leaves its file, `down` takes it away."""
    files = (stack_processes.server_file(stack.folder, name) for name in stack.plan.servers)
    return not any(file.exists() for file in files)


def _process(stack: Stack, name: str) -> object:
    server = living(stack.folder, name)
    return server.pid if server is not None else "gone already"
