"""The whole thing as a user runs it: `firecell up`, HTTP, kill -9, and the same bytes after."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.up import Up, running

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "firecell.toml"
    path.write_text('[cells.c1]\nstore = "embedded:./data/c1"\n[cells.c2]\n', encoding="utf-8")
    return path


def shown(page: dict[str, Any]) -> list[tuple[str, str]]:
    return [(post["author"], post["text"]) for post in page["posts"]]


def test_the_story_of_the_issue(tmp_path: Path, config: Path) -> None:
    """9 posts, 1 follows, 9 posts again; edit, delete, unfollow, follow again."""
    with running(tmp_path, config, 2) as up:
        first = up.publish({"type": "post", "author": "9", "text": "post 1"})
        up.publish({"type": "follow", "reader": "1", "author": "9"})
        second = up.publish({"type": "post", "author": "9", "text": "post 2"})
        page = up.dashboard(1, after=second["position"], wait_ms="5000")
        assert shown(page) == [("9", "post 2"), ("9", "post 1")]
        assert page["next"] is None and page["gaps"] == [] and page["reader"] == "1"
        edit = {"type": "edit", "author": "9", "post": second["id"], "text": "post 2, edited"}
        up.publish(edit)
        done = up.publish({"type": "delete", "author": "9", "post": first["id"]})
        page = up.dashboard(1, after=done["position"], wait_ms="5000")
        assert shown(page) == [("9", "post 2, edited")]
        assert page["posts"][0]["edited_at"] is not None
        up.dashboard(9, after=done["position"], wait_ms="5000")  # the post is asked of 9's own cell
        assert up.get(f"/v1/posts/{first['id']}", author="9").status_code == 410
        done = up.publish({"type": "unfollow", "reader": "1", "author": "9"})
        assert shown(up.dashboard(1, after=done["position"], wait_ms="5000")) == []
        done = up.publish({"type": "follow", "reader": "1", "author": "9"})
        page = up.dashboard(1, after=done["position"], wait_ms="5000")
        assert shown(page) == [("9", "post 2, edited")]
        marker = up.client.put(f"{up.url}/v1/users/1/marker", json={"post": second["id"]})
        assert marker.json()["marker"] == second["id"]
        assert up.dashboard(1)["posts"][0]["seen"] is True


def test_pages_are_the_same_bytes_after_kill_restart(tmp_path: Path, config: Path) -> None:
    up = Up(tmp_path, config)
    up.wait_ready(2)
    for author in (7, 8):
        up.publish({"type": "follow", "reader": "1", "author": str(author)})
    for number in range(60):
        last = up.publish({"type": "post", "author": str(7 + number % 2), "text": f"n {number}"})
        last_of = {**locals().get("last_of", {}), number % 2: last["position"]}
    for position in last_of.values():
        up.dashboard(1, after=position, wait_ms="5000")
    before = walk(up, 1)
    up.kill_all()
    with running(tmp_path, config, 2) as again:
        assert walk(again, 1) == before
    assert len(before) == 9


def walk(up: Up, user: int, limit: int = 7) -> list[tuple[Any, Any]]:
    """(posts, next) of every page."""
    pages: list[tuple[Any, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = up.dashboard(user, limit=str(limit), **cursor)
        pages.append((page["posts"], page["next"]))
        if page["next"] is None:
            return pages
        cursor = {"cursor": page["next"]}


def test_400_pages_while_posts_arrive(tmp_path: Path, config: Path) -> None:
    """A walk repeats nothing and misses nothing that was there when it began."""
    with running(tmp_path, config, 2) as up:
        up.publish({"type": "follow", "reader": "1", "author": "7"})
        body = "".join(
            f'{{"type":"post","author":"7","text":"old {number}"}}\n' for number in range(2_000)
        )
        kind = {"content-type": "application/x-ndjson"}
        answer = up.client.post(f"{up.url}/v1/events", content=body, headers=kind)
        assert answer.status_code == 200
        lines = answer.text.splitlines()
        assert len(lines) == 2_000 and not any("error" in line for line in lines)
        last = up.publish({"type": "post", "author": "7", "text": "last"})
        up.dashboard(1, after=last["position"], wait_ms="10000")
        stop = threading.Event()

        def keep_posting() -> None:
            while not stop.is_set():
                up.publish({"type": "post", "author": "7", "text": "new"})
                time.sleep(0.002)

        poster = threading.Thread(target=keep_posting)
        poster.start()
        try:
            pages = walk(up, 1, limit=5)
        finally:
            stop.set()
            poster.join()
        texts = [post["text"] for posts, _ in pages for post in posts]
        ids = [int(post["id"]) for posts, _ in pages for post in posts]
        assert len(pages) >= 400
        assert ids == sorted(set(ids), reverse=True), "a repeat or a disorder"
        old = [text for text in texts if text.startswith("old ")]
        assert old == [f"old {number}" for number in reversed(range(2_000))]


@pytest.mark.parametrize("role", ["gateway", "cell"])
def test_acknowledged_events_survive_kills_of_each_process(
    role: str, tmp_path: Path, config: Path
) -> None:
    """kill -9 of the gateway or a cell while publishing; `up` brings it back; nothing is lost."""
    acknowledged: list[str] = []
    with running(tmp_path, config, 2) as up:
        up.publish({"type": "follow", "reader": "1", "author": "7"})
        home = next(name for name in up.pids("cell") if serves(up, name))
        for kill in range(3):
            for number in range(40):
                answer = publish_once(up, f"{role} {kill} {number}")
                if answer is not None:
                    acknowledged.append(answer)
                if number == 20:
                    pids = up.pids(role)
                    os.kill(pids[home] if role == "cell" else next(iter(pids.values())), 9)
            up.wait_ready(2)
        texts = settled_texts(up, len(acknowledged))
    assert len(acknowledged) > 60, "too few were acknowledged for the kills to prove anything"
    assert set(acknowledged) <= set(texts)
    assert len(texts) == len(set(texts)), "a post shows twice"


def serves(up: Up, name: str) -> bool:
    cell = up.run_file("cell", name)
    return up.client.get(f"{cell.url}/v1/users/1/dashboard").status_code == 200


def publish_once(up: Up, text: str) -> str | None:
    """The text if its event was acknowledged."""
    try:
        answer = up.client.post(
            f"{up.url}/v1/events", json={"type": "post", "author": "7", "text": text}
        )
    except Exception:
        gateway = up.run_file("gateway")
        up.url = gateway.url if gateway is not None else up.url
        time.sleep(0.05)
        return None
    return text if answer.status_code == 201 else None


def settled_texts(up: Up, at_least: int) -> list[str]:
    deadline = time.monotonic() + 15
    while True:
        posts = [post for page, _ in walk(up, 1, 50) for post in page]
        if len(posts) >= at_least or time.monotonic() > deadline:
            return [post["text"] for post in posts]
        time.sleep(0.1)


def test_term_drains_and_exits_0(tmp_path: Path, config: Path) -> None:
    up = Up(tmp_path, config)
    up.wait_ready(2)
    pids = [*up.pids("cell").values(), *up.pids("gateway").values()]
    assert len(pids) == 3
    started = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - started < 30
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)
