"""kill -9 at random moments while batches are made durable: no key without its post (I3), and every
batch up to the stored position is complete (I1)."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cells.durable import make_durable
from cells.store_embedded import EmbeddedStore
from engine.homing import HomeRange
from engine.keys import inbox_key, inbox_keys, parse_inbox_keys, post_key
from engine.limits import RUN_KEYS_MIN
from engine.ports import Facts

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
POSTS = 3


def batch(number: int) -> Facts:
    """Batch `number`, always the same: small ones are atomic, big ones go as runs."""
    dice = random.Random(number)
    readers = dice.choice([50, RUN_KEYS_MIN // POSTS + 1, RUN_KEYS_MIN])
    ids = [number * POSTS + at + 1 for at in range(POSTS)]
    facts = Facts(posts=[(post_key(post, 9), number, 100, b"x" * 300) for post in ids])
    facts.inbox = inbox_keys(
        np.repeat(np.arange(readers, dtype=np.uint64), POSTS),
        np.tile(np.array(ids[::-1], dtype=np.uint64), readers),
        np.full(readers * POSTS, 9, dtype=np.uint64),
    )
    facts.positions = {0: (number + 1, 100)}
    return facts


def open_store(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder, identity="f", partitions=1, cell="c", home=HomeRange())


def work(folder: Path) -> None:
    """What the child does until it is killed."""
    store = open_store(folder)
    number = store.positions()[0][0]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        make_durable(store, batch(number), lambda step: None, {"rows": 0, "inbox": 0, "done": 0})
        number += 1


def check(folder: Path) -> int:
    store = open_store(folder)
    position = store.positions()[0][0]
    wanted = [batch(number) for number in range(position)]
    for facts in wanted:
        assert None not in store.post_rows([key for key, _, _, _ in facts.posts])
    for reader in (0, 49, RUN_KEYS_MIN // POSTS, RUN_KEYS_MIN - 1):
        raw = store.inbox_older(reader, b"", POSTS * (position + 5))
        _, ids, _ = parse_inbox_keys(raw)
        expected = [
            number * POSTS + at + 1
            for number, facts in enumerate(wanted)
            for at in range(POSTS)
            if reader < len(facts.inbox) // POSTS
        ]
        assert [post for post in ids.tolist()[::-1] if post <= position * POSTS] == expected
        beyond = [post for post in ids.tolist() if post > position * POSTS]
        assert None not in store.post_rows([post_key(post, 9) for post in beyond])
        assert all(post <= (position + 1) * POSTS for post in beyond)
    whole = batch(position)
    first = inbox_key(0, (position + 1) * POSTS, 9)
    if (
        store.inbox_older(0, b"", 1) == first
    ):  # one batch beyond the position, complete or not there
        reader = len(whole.inbox) // POSTS - 1
        last = inbox_key(reader, position * POSTS + 1, 9)
        assert last in store.inbox_older(reader, b"", POSTS)
    store.close()
    return position


def test_killed_at_any_moment_nothing_is_torn_powerloss(tmp_path: Path) -> None:
    dice = random.Random(11)
    program = (
        "import sys; from pathlib import Path;"
        "from tests.cells.test_store_embedded_kill import work; work(Path(sys.argv[1]))"
    )
    positions = [0]
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0.02, 0.4))
        child.kill()
        child.wait()
        child.stdout.close()
        positions.append(check(tmp_path))
    assert positions == sorted(positions) and positions[-1] > KILLS
