"""The check: what cells show over HTTP against what the oracle says, reader by reader.

The oracle is fed from the firehose read back, not from what was meant to be published. Whole
dashboards are walked as a client walks them, to `"next": null`; texts are compared as well. Raw
inbox keys (an admin route of a cell) are judged by the same rule where nobody unfollowed anybody:
then what is stored must be exactly what is visible, but for the posts that the cell recorded not to
push (author intervals): their keys may be absent, and their posts are on the pages all the same.

One event loop; nothing else may use the oracle meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvloop

from bench.load import OK, Client, for_each
from bench.oracle import Oracle, Seen, Summary
from engine.codec import decode
from engine.errors import FirecellError
from engine.limits import (
    PAGE_POSTS_MAX,
    PAGE_SCAN_KEYS_MAX,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
)
from engine.ports import Log

CLIENTS = 16
_PAGES_MAX = 100_000  # of one walk: an endless one is a fault, not a reason to hang


class _Post(msgspec.Struct):
    id: str
    author: str
    text: str


class _Page(msgspec.Struct):
    posts: list[_Post]
    next: str | None
    gaps: list[Any]


class _Keys(msgspec.Struct):
    keys: list[tuple[str, str]]
    next: str | None


class Interval(msgspec.Struct):
    """[from, to) of an author's posts that are not pushed; None: it is open."""


    from_offset: int
    to_offset: int | None


class Explained(msgspec.Struct):
    """What a cell says of an author."""

    now: str
    intervals: list[Interval]


class _Author(msgspec.Struct):
    cells: list[Explained]


_page = msgspec.json.Decoder(_Page)
_author = msgspec.json.Decoder(_Author)
_keys = msgspec.json.Decoder(_Keys)


@dataclass
class Report:
    """What was compared, and what was wrong."""

    pages: Summary = field(default_factory=Summary)
    keys: Summary = field(default_factory=Summary)  # raw inbox keys
    wrong_texts: int = 0
    gaps: int = 0  # pages that told of a gap
    keys_left_out: int = 0  # raw keys that are absent by a recorded decision

    @property
    def ok(self) -> bool:
        """Nothing was wrong."""
        return self.pages.ok and self.keys.ok and not self.wrong_texts and not self.gaps

    def document(self) -> dict[str, Any]:
        """JSON-ready: readers, posts, missing, extra, duplicates, out_of_order, wrong_texts, gaps;
        `inbox_keys`: the same of the raw keys, when they were looked at."""
        pages = msgspec.to_builtins(self.pages)
        document = {**pages, "wrong_texts": self.wrong_texts, "gaps": self.gaps}
        if self.keys.readers:
            document["inbox_keys"] = {
                **msgspec.to_builtins(self.keys),
                "left_out": self.keys_left_out,
            }
        return document

    def verdict(self) -> str:
        """One line."""
        pages = self.pages
        line = (
            f"oracle: {pages.readers:,} readers, {pages.missing:,} missing, {pages.extra:,} extra,"
            f" {pages.duplicates:,} duplicates"
        )
        others = {"out of order": pages.out_of_order, "wrong texts": self.wrong_texts}
        others["pages with gaps"] = self.gaps
        others["missing keys"] = self.keys.missing
        others["extra keys"] = self.keys.extra
        others["duplicate keys"] = self.keys.duplicates
        return line + "".join(f", {count:,} {name}" for name, count in others.items() if count)


def feed(
    oracle: Oracle,
    log: Log,
    starts: list[int],
    on_event: Callable[[int], None] = lambda done: None,
) -> int:
    """Read the firehose from `starts` (offset per partition) to its end into the oracle; the
    number of events."""
    done = 0
    for partition, end in enumerate(log.end_offsets()):
        at = starts[partition]
        while at < end:
            records = log.read(partition, at, READ_RECORDS_MAX, READ_BYTES_MAX)
            if not records:
                raise FirecellError(f"partition {partition} ends at {at}, before its end {end}")
            for record in records:
                oracle.apply(partition, record.offset, record.time_ms, decode(record.frame))
            at = records[-1].offset + 1
            done += len(records)
            on_event(done)
    return done


def compare(
    url: str,
    oracle: Oracle,
    readers: Iterable[int],
    *,
    raw_keys: bool,
    on_reader: Callable[[int], None] = lambda done: None,
) -> Report:
    """`compare_all` in an event loop of its own."""
    return uvloop.run(
        compare_all(url, oracle, readers, raw_keys=raw_keys, on_reader=on_reader)
    )


async def compare_all(
    url: str,
    oracle: Oracle,
    readers: Iterable[int],
    *,
    raw_keys: bool,
    on_reader: Callable[[int], None] = lambda done: None,
) -> Report:
    """Walk every reader's dashboard at `url` (a gateway, or a cell), and with `raw_keys` their
    stored keys too (a cell only). FirecellError when an answer is not 200."""
    report = Report()
    decided = _Decided(oracle)

    async def judge(client: Client, reader: int) -> None:
        walk = await _walk(client, reader, report)
        lines = [[(int(post.id), int(post.author)) for post in page] for page in walk]
        report.pages.add(oracle.compare(reader, lines))
        for post in (post for page in walk for post in page):
            wanted = oracle.text(int(post.id), int(post.author))
            report.wrong_texts += wanted is not None and wanted != post.text
        if raw_keys:
            verdict = oracle.compare(reader, await _walk_keys(client, reader))
            missing = [one for one in verdict.missing if not await decided.left_out(client, one)]
            report.keys_left_out += len(verdict.missing) - len(missing)
            verdict.missing = missing
            report.keys.add(verdict)
        on_reader(report.pages.readers)

    await for_each(url, readers, judge, CLIENTS)
    return report


class _Decided:
    """What a cell recorded not to push, as it says itself."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._intervals: dict[int, list[Interval]] = {}

    async def left_out(self, client: Client, line: Seen) -> bool:
        """Whether a post lies inside an interval of its author."""
        post, author = line
        if author not in self._intervals:
            self._intervals[author] = (await explain(client, author)).intervals
        offset = self._oracle.offset(post, author)
        return any(
            each.from_offset <= offset and (each.to_offset is None or offset < each.to_offset)
            for each in self._intervals[author]
        )


async def explain(client: Client, author: int) -> Explained:
    """What the one cell at the client's address says of an author."""
    found = _author.decode(await _get(client, f"/v1/admin/authors/{author}"))
    return found.cells[0]


async def _get(client: Client, path: str) -> bytes:
    status, body = await client.get(path)
    if status != OK:
        raise FirecellError(f"GET {path}: {status} {body[:300].decode(errors='replace')}")
    return body


async def _walk(client: Client, reader: int, report: Report) -> list[list[_Post]]:
    path = f"/v1/users/{reader}/dashboard?limit={PAGE_POSTS_MAX}"
    pages: list[list[_Post]] = []
    cursor: str | None = ""
    while cursor is not None and len(pages) < _PAGES_MAX:
        page = _page.decode(await _get(client, path + (f"&cursor={cursor}" if cursor else "")))
        pages.append(page.posts)
        report.gaps += bool(page.gaps)
        cursor = page.next
    return pages


async def _walk_keys(client: Client, reader: int) -> list[list[Seen]]:
    path = f"/v1/admin/inbox/{reader}?limit={PAGE_SCAN_KEYS_MAX}"
    pages: list[list[Seen]] = []
    cursor: str | None = ""
    while cursor is not None and len(pages) < _PAGES_MAX:
        page = _keys.decode(await _get(client, path + (f"&cursor={cursor}" if cursor else "")))
        pages.append([(int(post), int(author)) for post, author in page.keys])
        cursor = page.next
    return pages
