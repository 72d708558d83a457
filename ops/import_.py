"""`firecell import edges FILE`: a follow graph, one `reader author` per line.

Follows repeat harmlessly, so a batch whose answer was lost is sent again, and an import that was
interrupted is simply run again.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from engine.errors import BadInput, NotFound
from engine.limits import (
    BAD_LINES_NAMED_MAX,
    IMPORT_BATCH_EVENTS,
    IMPORT_LINE_CHARACTERS_MAX,
    U64_MAX,
)
from ops import import_jetstream
from ops.importing import progress, refusal, send
from ops.options import Config, Json, Url, emit, printable, say

if TYPE_CHECKING:
    from ops.client import Client

_app = typer.Typer(
    no_args_is_help=True, help="Bring in what others have: follow graphs, Bluesky's events."
)


@dataclass
class Summary:
    """What an import did."""

    edges: int = 0
    refused: int = 0
    bad_lines: int = 0
    seconds: float = 0.0
    edges_per_second: float = 0.0
    examples: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Keep an example of what was wrong, the first few."""
        if len(self.examples) < BAD_LINES_NAMED_MAX:
            self.examples.append(what)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    import_jetstream.add_to(_app)
    app.add_typer(_app, name="import")


@_app.command()
def edges(
    file: Annotated[Path, typer.Argument(help="`reader author` per line; plain or .gz.")],
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Import a follow graph: `reader author` per line, numbers; blank lines and # comments.

    Running it again changes nothing, so an interrupted import is run again. Bad lines are counted
    and the first of them named; exit code 1 when there were any.

    \b
    Examples:
      firecell import edges follows.txt
      firecell import edges follows.txt.gz --json
    """
    from ops.client import connect

    if not file.is_file():
        raise NotFound(f"{file}: no such file")
    with connect(config, url) as client:
        summary = import_edges(client, file)
    if json_wanted:
        emit(asdict(summary))
    for example in summary.examples:
        say(example)
    wrong = summary.bad_lines + summary.refused
    if not json_wanted or wrong:
        say(
            f"{summary.edges:,} follows in {summary.seconds:.1f} s"
            f" ({summary.edges_per_second:,.0f}/s), {summary.bad_lines} bad lines,"
            f" {summary.refused} refused"
        )
    if wrong:
        raise typer.Exit(1)


def import_edges(client: Client, file: Path) -> Summary:
    """Send every edge of a file, in batches."""
    summary = Summary()
    started = time.monotonic()
    with progress(file) as moved:
        for batch, done_bytes in read_batches(file, summary):
            for line in send(client, b"".join(batch)):
                if line.startswith(b'{"error"'):
                    summary.refused += 1
                    summary.note(f"refused: {refusal(line)}")
                else:
                    summary.edges += 1
            moved(done_bytes)
    summary.seconds = round(time.monotonic() - started, 3)
    summary.edges_per_second = round(summary.edges / max(summary.seconds, 0.001), 1)
    return summary


def read_batches(file: Path, summary: Summary) -> Iterator[tuple[list[bytes], int]]:
    """(NDJSON lines of at most `IMPORT_BATCH_EVENTS` follows, bytes of the file read so far)."""
    batch: list[bytes] = []
    with file.open("rb") as raw, _text(file, raw) as lines:
        number = 0
        while line := lines.readline(IMPORT_LINE_CHARACTERS_MAX):
            number += 1
            edge = parse_edge(line)
            if edge is not None:
                batch.append(edge)
            elif line.strip() and not line.lstrip().startswith(b"#"):
                summary.bad_lines += 1
                shown = printable(line.strip()[:80].decode(errors="replace"))
                summary.note(f"{file}:{number}: no `reader author`: {shown}")
            if len(batch) == IMPORT_BATCH_EVENTS:
                yield batch, raw.tell()
                batch = []
        if batch:
            yield batch, raw.tell()


def parse_edge(line: bytes) -> bytes | None:
    """`1 7` -> the follow as a JSON line; None when it is no edge."""
    parts = line.split()
    if len(parts) != 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    reader, author = int(parts[0]), int(parts[1])
    if reader > U64_MAX or author > U64_MAX:
        return None
    return b'{"type":"follow","reader":"%d","author":"%d"}\n' % (reader, author)


def _text(file: Path, raw: IO[bytes]) -> IO[bytes] | gzip.GzipFile:
    if file.suffix != ".gz":
        return raw
    if raw.read(2) != b"\x1f\x8b":
        raise BadInput(f"{file}: named .gz, but it is no gzip file", "file")
    raw.seek(0)
    return gzip.open(raw)
