"""What the demo shows: a panel on a terminal, a line now and then elsewhere. Pure rendering."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_BARS = " ▁▂▃▄▅▆▇█"
_HISTORY = 48


@dataclass
class Live:
    """The numbers of this moment."""

    url: str = ""
    cells: list[str] = field(default_factory=list)
    seconds: float = 0.0
    events: int = 0
    posts: int = 0
    refused: int = 0
    follows: int = 0
    inbox_writes: int = 0
    pages: int = 0
    posts_per_second: float = 0.0
    writes_per_second: float = 0.0
    pages_per_second: float = 0.0
    inbox_p50_ms: float = 0.0
    inbox_p99_ms: float = 0.0
    page_p99_ms: float = 0.0
    lag_events: int = 0
    gaps: int = 0
    star: int = 1  # an author whom many follow
    reader: int = 1  # a reader with much to read
    newest: str = ""  # a post that was just seen in a dashboard
    writes_history: list[float] = field(default_factory=list)

    def note_writes(self) -> None:
        """Remember this second for the chart."""
        self.writes_history = [*self.writes_history, self.writes_per_second][-_HISTORY:]


def line(live: Live) -> str:
    """One line for logs."""
    return (
        f"{live.posts_per_second:,.0f} posts/s, {live.writes_per_second:,.0f} inbox writes/s,"
        f" publish to inbox p99 {live.inbox_p99_ms:.0f} ms, {live.pages_per_second:,.0f} pages/s"
        f" p99 {live.page_p99_ms:.1f} ms, lag {live.lag_events:,} events, gaps {live.gaps}"
    )


def panel(live: Live) -> RenderableType:
    """The whole picture for a terminal."""
    numbers = Table.grid(padding=(0, 3))
    numbers.add_column(style="dim")
    numbers.add_column(justify="right", style="bold")
    numbers.add_column(style="dim")
    numbers.add_column(justify="right", style="bold")
    gaps_style = "bold green" if live.gaps == 0 else "bold red"
    rows: list[tuple[str, Any, str, Any]] = [
        (
            "posts/s", f"{live.posts_per_second:,.0f}",
            "inbox writes/s", Text(f"{live.writes_per_second:,.0f}", "bold cyan"),
        ),
        (
            "publish to inbox p50", f"{live.inbox_p50_ms:,.0f} ms",
            "p99", f"{live.inbox_p99_ms:,.0f} ms",
        ),
        (
            "dashboards read/s", f"{live.pages_per_second:,.0f}",
            "page p99", f"{live.page_p99_ms:,.1f} ms",
        ),
        ("lag", f"{live.lag_events:,} events", "gaps", Text(str(live.gaps), gaps_style)),
        ("posts", f"{live.posts:,}", "inbox keys", f"{live.inbox_writes:,}"),
    ]  # fmt: skip
    for row in rows:
        numbers.add_row(*row)
    url = live.url
    curls = Text(overflow="fold")
    curls.append("\ntry it, in another terminal:\n", "dim")
    curls.append(f"  curl -s '{url}/v1/users/{live.reader}/dashboard?limit=3'\n")
    curls.append(f"  curl -s '{url}/v1/users/{live.star}/followers?limit=5'\n")
    curls.append(
        f"  curl -s {url}/v1/events -H 'content-type: application/json' \\\n"
        f'       -d \'{{"type":"post","author":"{live.star}","text":"hello from outside"}}\'\n'
    )
    newest = Text(f"\nuser {live.reader} sees now: ", "dim", overflow="ellipsis", no_wrap=True)
    newest.append(live.newest, "italic")
    chart = Text(_chart(live.writes_history), "cyan")
    title = f"Firecell  {url}  cells {', '.join(live.cells)}  {live.seconds:,.0f} s"
    body = Group(numbers, Text("\ninbox writes/s", "dim"), chart, newest, curls)
    return Panel(body, title=title, subtitle="Ctrl-C: drain and check", title_align="left")


def _chart(history: list[float]) -> str:
    top = max(history, default=0.0)
    if not top:
        return ""
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in history)
