"""An import of Jetstream that is killed again and again ends as if it had never been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.up import ROOT, Up, running
from tests.topics.test_jetstream import line, tid
from topics.jetstream import post_id
from topics.jetstream_map import user_id

pytestmark = pytest.mark.slow
USERS = [f"did:plc:user{number}" for number in range(60)]


def world(seed: int) -> tuple[list[bytes], dict[int, dict[int, str]]]:
    """Lines of a stream, and by reader what their dashboard must show: post id -> text."""
    draw = random.Random(seed)
    now_us = time.time_ns() // 1_000 - 60_000_000
    lines: list[bytes] = []
    follows: dict[tuple[str, str], str] = {}  # (reader, record key) -> author
    posts: dict[tuple[str, str], str] = {}  # (author, record key) -> text
    for number in range(14_000):
        who, other = draw.sample(USERS, 2)
        key = tid(now_us + number, 3)
        what = draw.random()
        if number < 1_500 and what < 0.6:
            follows[who, key] = other
            record = {"subject": other}
            lines.append(line("create", "app.bsky.graph.follow", key, record, did=who))
        elif number < 1_500 and follows:
            reader, gone = draw.choice(sorted(follows))
            del follows[reader, gone]
            lines.append(line("delete", "app.bsky.graph.follow", gone, did=reader))
        elif what < 0.01 and posts:
            author, gone = draw.choice(sorted(posts))
            del posts[author, gone]
            lines.append(line("delete", "app.bsky.feed.post", gone, did=author))
        elif what < 0.4:
            lines.append(line("create", "app.bsky.actor.profile", "self", {}, did=who))
        elif what < 0.5:
            posts[who, key] = f"post {number}"
            record = {"text": f"post {number}"}
            lines.append(line("create", "app.bsky.feed.post", key, record, did=who))
    pages: dict[int, dict[int, str]] = {user_id(user): {} for user in USERS}
    following = {(reader, author) for (reader, _), author in follows.items()}
    for (author, key), text in posts.items():
        post = post_id(key, time.time_ns() // 1_000_000)
        for reader in USERS:
            if reader == author or (reader, author) in following:
                pages[user_id(reader)][post] = text
    return lines, pages


def importing(file: Path, up: Up, config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ops.main", "import", "jetstream", str(file)]
    return subprocess.Popen([*command, "--config", str(config), "--url", up.url], cwd=ROOT)


def test_a_killed_import_is_run_again_restart(tmp_path: Path) -> None:
    config = tmp_path / "firecell.toml"
    config.write_text("[cells.c1]\n[cells.c2]\n", encoding="utf-8")
    lines, expected = world(seed=7)
    file = tmp_path / "day.ndjson"
    file.write_bytes(b"\n".join(lines))
    with running(tmp_path, config, 2) as up:
        unfinished = 0
        for _ in range(4):
            before = events_kept(up)
            process = importing(file, up, config)
            while process.poll() is None and events_kept(up) == before:
                time.sleep(0.001)
            if process.poll() is None:  # a batch was published, perhaps not remembered yet
                os.kill(process.pid, signal.SIGKILL)
                unfinished += process.wait() == -signal.SIGKILL
        assert unfinished, "no import was killed with work in hand"
        for _ in range(2):  # the second finds everything done
            assert importing(file, up, config).wait() == 0
        last = up.publish({"type": "post", "author": "1", "text": "the end"})
        up.dashboard(1, after=last["position"], wait_ms="5000")
        deadline = time.monotonic() + 20
        while {reader: shown(up, reader) for reader in expected} != expected:
            assert time.monotonic() < deadline, "pages differ from what the file says"


def events_kept(up: Up) -> int:
    """Events in the firehose."""
    ends: dict[str, int] = up.get("/v1/admin/status").json()["firehose"]["end"]
    return sum(ends.values())


def shown(up: Up, reader: int) -> dict[int, str]:
    """Post id -> text over all pages of a reader."""
    posts: dict[int, str] = {}
    cursor: dict[str, str] = {}
    while True:
        page = up.dashboard(reader, limit="200", **cursor)
        posts |= {int(post["id"]): post["text"] for post in page["posts"]}
        if page["next"] is None:
            return posts
        cursor = {"cursor": page["next"]}
