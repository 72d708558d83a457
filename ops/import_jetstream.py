"""`firecell import jetstream FILE|URL`: Bluesky's Jetstream, from a file or live.

A batch is translated, published, and only then remembered (topics/jetstream_map.py): killed at any
moment, the import is run again and goes on. A file may be imported twice: nothing changes.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import typer

from engine.errors import BadInput, Forbidden, NotFound, Unavailable
from engine.limits import (
    IMPORT_BATCH_EVENTS,
    JETSTREAM_BATCH_S,
    JETSTREAM_CONNECT_S,
    JETSTREAM_LINE_BYTES_MAX,
    JETSTREAM_OVERLAP_MS,
    JETSTREAM_READ_BYTES,
    JETSTREAM_WINDOW_BYTES_MAX,
)
from ops.importing import progress, refusal, send
from ops.options import Config, Json, Url, emit, printable, say, settings_of
from topics.backoff import Backoff

if TYPE_CHECKING:
    from ops.client import Client
    from topics.jetstream import Tally
    from topics.jetstream_map import JetstreamMap

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def add_to(app: typer.Typer) -> None:
    """Add the command to `import`."""
    app.command("jetstream")(jetstream)


def jetstream(
    source: Annotated[
        str, typer.Argument(metavar="FILE|URL", help="NDJSON, plain or zstd; or a wss:// address.")
    ],
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Stop after so many events.")
    ] = None,
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Import Bluesky's Jetstream: posts, edits, deletes, reposts, likes, follows, blocks.

    A file may be imported again: what was imported before changes nothing. A live stream goes on
    where it stopped, until Ctrl-C. Other kinds of events are counted and skipped.

    \b
    Examples:
      firecell import jetstream day.ndjson.zst
      firecell import jetstream wss://jetstream2.us-east.bsky.network/subscribe
      firecell import jetstream day.ndjson --count 10000 --json
    """
    from ops.client import connect
    from topics.jetstream import Tally

    tally = Tally()
    started = time.monotonic()
    with connect(config, url) as client:
        known = _open_map(client, settings_of(config).data.folder)
        try:
            importer = Importer(client, known, tally, count)
            if source.startswith(("ws://", "wss://")):
                importer.follow(source)
            else:
                importer.read(Path(source))
        except KeyboardInterrupt:  # what was published is remembered; that is how a stream ends
            say("stopped; run it again to go on")
        finally:
            known.close()
    _report(tally, time.monotonic() - started, json_wanted)
    if tally.wrong:
        raise typer.Exit(1)


def _open_map(client: Client, data: Path) -> JetstreamMap:
    from topics.jetstream_map import JetstreamMap

    try:
        identity = str(client.get("/v1/admin/status")["firehose"]["identity"])
    except Forbidden:
        raise Forbidden(
            "importing Jetstream asks which firehose it fills: use a token with the scopes publish"
            " and admin"
        ) from None
    return JetstreamMap(data / "imports" / "jetstream", identity)


class Importer:
    """Batches of lines -> translated -> published -> remembered."""

    def __init__(
        self, client: Client, known: JetstreamMap, tally: Tally, count: int | None
    ) -> None:
        self._client = client
        self._known = known
        self._tally = tally
        self._left = count

    @property
    def _done(self) -> bool:
        return self._left is not None and self._left <= 0

    def read(self, file: Path) -> None:
        """Import a file. NotFound, BadInput."""
        if not file.is_file():
            raise NotFound(f"{file}: no such file")
        with progress(file) as moved, file.open("rb") as raw:
            batch: list[bytes] = []
            for line in _lines(_decompressed(file, raw), self._tally):
                batch.append(line)
                if len(batch) == IMPORT_BATCH_EVENTS:
                    self._apply(batch)
                    moved(raw.tell())
                    batch = []
                if self._done:
                    return
            self._apply(batch)
            moved(raw.tell())

    def follow(self, url: str) -> None:
        """Import a live stream from where it stopped; reconnects with backoff until stopped."""
        from websockets.exceptions import WebSocketException

        waits = Backoff()
        while not self._done:
            began = self._known.cursor(url)
            try:
                self._listen(url)
            except (WebSocketException, OSError) as error:
                if self._known.cursor(url) != began:
                    waits.reset()
                say(f"the stream broke, trying again: {printable(str(error))[:200]}")
                time.sleep(waits.next_s())

    def _listen(self, url: str) -> None:
        from websockets.sync.client import connect

        address = _with_cursor(url, self._known.cursor(url))
        with connect(
            address, open_timeout=JETSTREAM_CONNECT_S, max_size=4 * JETSTREAM_LINE_BYTES_MAX
        ) as socket:
            while not self._done:
                batch: list[bytes] = []
                deadline = time.monotonic() + JETSTREAM_BATCH_S
                try:
                    while len(batch) < IMPORT_BATCH_EVENTS and not self._enough(batch):
                        message = socket.recv(timeout=max(deadline - time.monotonic(), 0))
                        batch.append(message.encode() if isinstance(message, str) else message)
                except TimeoutError:
                    pass
                finally:
                    self._apply(batch, url)

    def _enough(self, batch: list[bytes]) -> bool:
        return self._left is not None and len(batch) >= self._left

    def _apply(self, lines: list[bytes], url: str | None = None) -> None:
        """Translate, publish, remember: in this order, and the last only after the second."""
        import msgspec

        from topics.jetstream import Translator
        from topics.log_embedded import system_clock_ms

        if self._left is not None:
            lines = lines[: self._left]
            self._left -= len(lines)
        if not lines:
            return
        with self._known.batch() as batch:
            translator = Translator(batch, self._tally, system_clock_ms())
            events = [event for line in lines if (event := translator.event(line)) is not None]
            for body in _bodies([msgspec.json.encode(event) + b"\n" for event in events]):
                for result in send(self._client, body):
                    if result.startswith(b'{"error"'):
                        self._refused(result)
            if url is not None and translator.time_us:
                batch.move_cursor(url, translator.time_us)

    def _refused(self, result: bytes) -> None:
        """Count what is wrong with the event; what is wrong with the server ends the batch, which
        is then not remembered."""
        if int(json.loads(result)["error"].get("status", 0)) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(
                f"the firehose did not take a part of this batch: {refusal(result)}; run it again"
            )
        self._tally.refused += 1
        self._tally.note(f"refused: {refusal(result)}")


def _bodies(lines: list[bytes]) -> Iterator[bytes]:
    """Bodies within the server's bound."""
    from engine.limits import BATCH_BYTES_MAX

    body: list[bytes] = []
    size = 0
    for line in lines:
        if body and size + len(line) > BATCH_BYTES_MAX // 2:
            yield b"".join(body)
            body, size = [], 0
        body.append(line)
        size += len(line)
    if body:
        yield b"".join(body)


def _with_cursor(url: str, cursor_us: int | None) -> str:
    """The address that resumes there; only the collections that are imported are asked for."""
    from topics.jetstream import COLLECTIONS

    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not any(name == "wantedCollections" for name, _ in query):
        query += [("wantedCollections", collection) for collection in COLLECTIONS]
    if cursor_us is not None:
        query = [pair for pair in query if pair[0] != "cursor"]
        query.append(("cursor", str(max(cursor_us - JETSTREAM_OVERLAP_MS * 1_000, 0))))
    return urlunsplit(parts._replace(query=urlencode(query)))


def _decompressed(file: Path, raw: IO[bytes]) -> IO[bytes]:
    """The text of a file, by its first bytes, not by its name."""
    head = raw.read(len(_ZSTD_MAGIC))
    raw.seek(0)
    if head != _ZSTD_MAGIC:
        if file.suffix == ".zst":
            raise BadInput(f"{file}: named .zst, but it is no zstd file", "file")
        return raw
    return io.BufferedReader(_ZstdText(raw))


class _ZstdText(io.RawIOBase):
    """The text of zstd frames, one behind the other. EOFError when the last is not whole: the
    library's own reader takes a cut-off file for a whole one."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._made = zstandard.ZstdDecompressor(max_window_size=JETSTREAM_WINDOW_BYTES_MAX)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._text = b""

    def readable(self) -> bool:
        """It is read only."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As RawIOBase's. ZstdError when the file is damaged."""
        while not self._text:
            packed = self._raw.read(JETSTREAM_READ_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is not whole")
                return 0
            self._text = b"".join(self._unpack(packed))
        count = min(len(buffer), len(self._text))
        buffer[:count], self._text = self._text[:count], self._text[count:]
        return count

    def _unpack(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self._frame is None:
                self._frame = self._made.decompressobj()
            yield self._frame.decompress(packed)
            packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None


def _lines(text: IO[bytes], tally: Tally) -> Iterator[bytes]:
    """Lines that are not blank; one that is too long is a bad line and thrown away."""
    import zstandard

    too_long = False
    try:
        while line := text.readline(JETSTREAM_LINE_BYTES_MAX):
            ended = line.endswith(b"\n")
            if too_long or (not ended and len(line) == JETSTREAM_LINE_BYTES_MAX):
                if not too_long:
                    tally.bad_lines += 1
                    tally.note(f"a line of over {JETSTREAM_LINE_BYTES_MAX} bytes")
                too_long = not ended
            elif line.strip():
                yield line
    except (zstandard.ZstdError, EOFError) as error:
        tally.bad_lines += 1
        tally.note(f"the file is damaged or cut off here ({error}); what came before was imported")


def _report(tally: Tally, seconds: float, json_wanted: bool) -> None:
    imported = sum(tally.imported.values())
    document: dict[str, Any] = {
        "imported": dict(tally.imported),
        "skipped": dict(tally.skipped),
        "bad_lines": tally.bad_lines,
        "collisions": tally.collisions,
        "refused": tally.refused,
        "examples": tally.examples,
        "seconds": round(seconds, 3),
    }
    if json_wanted:
        emit(document)
    for example in tally.examples:
        say(printable(example))
    if not json_wanted or tally.wrong:
        kinds = ", ".join(f"{n:,} {name}" for name, n in sorted(tally.imported.items()))
        skips = ", ".join(f"{n:,} {name}" for name, n in sorted(tally.skipped.items()))
        say(f"{imported:,} events in {seconds:.1f} s ({kinds or 'none'})")
        say(
            f"skipped: {skips or 'none'}; {tally.bad_lines} bad lines, {tally.collisions}"
            f" collisions, {tally.refused} refused"
        )
