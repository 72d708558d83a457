"""The check finds what is wrong with pages: a server that lies is told so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench import check
from bench.oracle import Oracle
from engine import events
from engine.codec import encode
from engine.errors import FirecellError
from engine.ids import make_id
from tests.bench.test_load import with_server
from topics.log_embedded import EmbeddedLog

_MS = 1_767_225_600_000
_READER, _AUTHOR = 1, 9
_POSTS = [make_id(_MS, 0, number) for number in range(5)]
Pages = dict[str, Any]


def oracle() -> Oracle:
    """User 1 follows user 9, who has posted five times."""
    told = Oracle()
    told.apply(0, 0, _MS, events.Relation(events.FOLLOW, _READER, _AUTHOR))
    for offset, post in enumerate(_POSTS, 1):
        told.apply(0, offset, _MS, events.Post(_AUTHOR, post, 0, f"text {post}"))
    return told


def line(post: int, text: str | None = None) -> dict[str, str]:
    return {"id": str(post), "author": str(_AUTHOR), "text": text or f"text {post}"}


def walk(pages: list[list[dict[str, str]]], gaps: list[str]) -> Pages:
    """path -> page of a dashboard in several pages."""
    found: Pages = {}
    for number, posts in enumerate(pages):
        cursor = f"&cursor=c{number}" if number else ""
        following = f"c{number + 1}" if number + 1 < len(pages) else None
        path = f"/v1/users/{_READER}/dashboard?limit=200{cursor}"
        found[path] = {"posts": posts, "next": following, "gaps": gaps}
    return found


def compare(pages: Pages, *, raw_keys: bool = False) -> check.Report:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            page = pages.get(request.split()[1].decode())
            body = json.dumps(page).encode()
            status = b"404 No" if page is None else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
            await writer.drain()

    reports: list[check.Report] = []

    async def use(url: str) -> None:
        found = await check.compare_all(url, oracle(), [_READER], raw_keys=raw_keys)
        reports.append(found)

    use_: Callable[[str], Awaitable[None]] = use
    with_server(serve, use_)
    return reports[0]


_RIGHT = [line(post) for post in reversed(_POSTS)]


def test_right_pages_pass() -> None:
    found = compare(walk([_RIGHT[:2], [], _RIGHT[2:]], []))
    assert found.ok
    assert found.pages.posts == 5
    assert found.verdict() == "oracle: 1 readers, 0 missing, 0 extra, 0 duplicates"


@pytest.mark.parametrize(
    ("posts", "gaps", "words"),
    [
        (_RIGHT[1:], [], "1 missing"),
        ([*_RIGHT, line(make_id(_MS - 9, 0, 0))], [], "1 extra"),
        ([_RIGHT[0], *_RIGHT], [], "1 duplicates"),
        ([_RIGHT[1], _RIGHT[0], *_RIGHT[2:]], [], "1 out of order"),
        ([line(_POSTS[4], "not what was said"), *_RIGHT[1:]], [], "1 wrong texts"),
        (_RIGHT, ["something"], "1 pages with gaps"),
    ],
)
def test_wrong_pages_are_told(posts: list[dict[str, str]], gaps: list[str], words: str) -> None:
    found = compare(walk([posts], gaps))
    assert not found.ok
    assert words in found.verdict()


def test_raw_keys_are_judged_as_well() -> None:
    keys = [[str(post), str(_AUTHOR)] for post in reversed(_POSTS)]
    path = f"/v1/admin/inbox/{_READER}?limit=2000"
    pages = walk([_RIGHT], [])
    assert compare(pages | {path: {"keys": keys, "next": None}}, raw_keys=True).ok
    twice = compare(pages | {path: {"keys": [keys[0], *keys], "next": None}}, raw_keys=True)
    assert "1 duplicate keys" in twice.verdict()
    assert twice.document()["inbox_keys"]["duplicates"] == 1


def test_keys_may_be_absent_where_the_cell_recorded_so_and_nowhere_else() -> None:
    keys = [[str(post), str(_AUTHOR)] for post in reversed(_POSTS)]
    told = oracle()
    second = told.offset(_POSTS[1], _AUTHOR)
    interval = {"from_offset": second, "to_offset": second + 1}
    cell = {"now": "pushed", "intervals": [interval]}
    pages = walk([_RIGHT], []) | {f"/v1/admin/authors/{_AUTHOR}": {"cells": [cell]}}
    path = f"/v1/admin/inbox/{_READER}?limit=2000"
    for absent, missing in ((1, 0), (2, 1)):
        kept = [key for key in keys if key[0] != str(_POSTS[absent])]
        found = compare(pages | {path: {"keys": kept, "next": None}}, raw_keys=True)
        assert (found.keys.missing, found.keys_left_out) == (missing, 1 - missing)
        assert found.ok == (not missing)


def test_an_answer_that_is_no_page_ends_the_check() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        compare({})
    assert caught.group_contains(FirecellError, match="404")


def test_the_oracle_is_fed_from_the_firehose(tmp_path: Path) -> None:
    log = EmbeddedLog.open(tmp_path, partitions=2)
    try:
        entries = [(0, encode(events.Relation(events.FOLLOW, _READER, _AUTHOR)))]
        entries += [(0, encode(events.Post(_AUTHOR, post, 0, "x"))) for post in _POSTS]
        log.append(entries)
        told = Oracle()
        assert check.feed(told, log, [0, 0]) == 6
        assert [post for post, _ in told.visible(_READER)] == _POSTS[::-1]
        assert check.feed(Oracle(), log, [4, 0]) == 2
    finally:
        log.close()
