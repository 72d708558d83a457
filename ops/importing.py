"""What imports share: sending a batch until it is answered, refusals in words, the bar.

One thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import Unavailable
from engine.limits import CLIENT_RETRIES_MAX
from ops.options import on_terminal, printable, say
from topics.backoff import Backoff

if TYPE_CHECKING:
    from ops.client import Client


def send(client: Client, body: bytes) -> list[bytes]:
    """Publish, again after a failure of the dependency: a repeated follow changes nothing."""
    waits = Backoff()
    for _ in range(CLIENT_RETRIES_MAX):
        try:
            return list(client.publish_lines(body))
        except Unavailable as error:
            say(f"trying again: {error.message}")
            time.sleep(max(waits.next_s(), error.retry_after_s))
    return list(client.publish_lines(body))


def refusal(line: bytes) -> str:
    """What a result line says is wrong, fit for a terminal."""
    try:
        return printable(str(json.loads(line)["error"]["detail"]))
    except (ValueError, KeyError, TypeError):
        return printable(line[:200].decode(errors="replace"))


class Moved:
    """Moves the bar; without a terminal there is none."""

    def __call__(self, done_bytes: int) -> None:
        """The file was read up to here."""


@contextmanager
def progress(file: Path) -> Iterator[Moved]:
    """A bar over the bytes of a file; call what it gives with the bytes read so far."""
    if not on_terminal():
        yield Moved()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name, total=file.stat().st_size)

        class Moving(Moved):
            def __call__(self, done_bytes: int) -> None:
                bar.update(task, completed=done_bytes)

        yield Moving()
