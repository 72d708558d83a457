"""What a benchmark tells people while it works: lines on stderr, with the time since its start.

On a terminal progress is shown in place; elsewhere as a line now and then. Main thread only.
"""

from __future__ import annotations

import time

from rich.console import Console

_EVERY_S = 10.0  # between two lines of progress off a terminal


class Talk:
    """One program's talk. `quiet` keeps all of it back."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._started = time.monotonic()
        self._shown = 0.0
        self._open = False  # a line of progress stands without its line end

    def say(self, text: str) -> None:
        """One line."""
        if self._quiet:
            return
        if self._open:
            self.console.file.write("\r\x1b[K")
            self._open = False
        self._shown = time.monotonic()
        self.console.print(f"{self._since()} {text}", soft_wrap=True, markup=False)

    def progress(self, what: str, done: float, total: float) -> None:
        """How far something long has come; cheap to call often."""
        now = time.monotonic()
        terminal = self.console.is_terminal
        if self._quiet or now - self._shown < (0.2 if terminal else _EVERY_S):
            return
        self._shown = now
        share = 100 * done / total if total else 100.0
        line = f"{self._since()} {what}: {done:,.0f} of {total:,.0f} ({share:.0f}%)"
        if terminal:
            self.console.file.write(f"\r\x1b[K{line}")
            self.console.file.flush()
            self._open = True
        else:
            self.console.print(line, soft_wrap=True, markup=False)

    def _since(self) -> str:
        return f"[{time.monotonic() - self._started:7.1f} s]"
