"""`firecell publish [FILE|-]`: NDJSON in, a result line each out, a summary on stderr."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from engine.errors import NotFound
from engine.limits import BATCH_BYTES_MAX, IMPORT_BATCH_EVENTS, PUBLISH_READ_BYTES
from ops.options import Config, Url, say

_REFUSED = b'{"error"'


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("publish")(publish)


def publish(
    file: Annotated[str, typer.Argument(help="One JSON event a line; - is stdin.")] = "-",
    config: Config = None,
    url: Url = None,
    json_wanted: Annotated[
        bool, typer.Option("--json", help="The summary as JSON too, on stderr.")
    ] = False,
) -> None:
    """Publish events, one JSON object a line. A result line each goes to stdout, in order.

    Good lines are kept although others are bad; exit code 1 when any was refused. Posts with an
    id of their own may be published again: that changes nothing.

    \b
    Examples:
      firecell publish events.ndjson > results.ndjson
      echo '{"type":"post","author":"7","text":"hello"}' | firecell publish
    """
    from ops.client import connect

    started = time.monotonic()
    sent = refused = 0
    with connect(config, url) as client, _opened(file) as source:
        for body, too_long in batches(source):
            results = list(client.publish_lines(body)) if body else []
            if too_long:
                results.append(_too_long_result())
            sent += len(results)
            refused += sum(line.startswith(_REFUSED) for line in results)
            sys.stdout.buffer.write(b"".join(line + b"\n" for line in results))
            sys.stdout.buffer.flush()
    seconds = time.monotonic() - started
    if json_wanted:
        summary = {"sent": sent, "refused": refused, "seconds": round(seconds, 3)}
        typer.echo(json.dumps(summary), err=True)
    else:
        say(f"{sent - refused:,} kept, {refused:,} refused, {seconds:.1f} s")
    if refused:
        raise typer.Exit(1)


def batches(source: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Whole lines as they come, in bodies within the server's bounds: (body, whether a line
    longer than any body was thrown away behind it). A pipe's lines are not waited for."""
    rest = b""
    skipping = False
    while chunk := _read_some(source):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if skipping:
            if not lines:
                rest = b""
                continue
            lines, skipping = lines[1:], False
            yield b"", True
        if len(rest) > BATCH_BYTES_MAX // 2:
            rest, skipping = b"", True
        lines = [line for line in lines if line.strip()]
        for first in range(0, len(lines), IMPORT_BATCH_EVENTS):
            yield b"\n".join(lines[first : first + IMPORT_BATCH_EVENTS]) + b"\n", False
    if skipping:
        yield b"", True
    elif rest.strip():
        yield rest + b"\n", False


def _read_some(source: BinaryIO) -> bytes:
    if isinstance(source, io.BufferedReader):
        return source.read1(PUBLISH_READ_BYTES)
    return source.read(PUBLISH_READ_BYTES)


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except FileNotFoundError:
        raise NotFound(f"{file}: no such file") from None


def _too_long_result() -> bytes:
    message = f"a line of more than {BATCH_BYTES_MAX // 2} bytes was not sent"
    return json.dumps({"error": {"status": 413, "detail": message}}, separators=(",", ":")).encode()
