"""Facts merge the same in any order, any number of times, in any batches (I2, I6).

The model keeps every fact that it ever saw and decides at the end; the store merges as they come.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells import rows
from cells.store_embedded import EmbeddedStore
from engine.homing import HomeRange
from engine.keys import BLOCKED_BY, BLOCKS, MUTES, post_key
from engine.ports import Facts, Gap, OutboxEntry, PostRow
from tests.strategies import looks

AUTHORS, IDS = (1, 2), (10, 11)
KEYS = [post_key(post, author) for post in IDS for author in AUTHORS]
PEOPLE, CLASSES = (1, 2), (BLOCKS, MUTES, BLOCKED_BY)

fact = st.tuples(
    st.sampled_from(["post", "edit", "delete", "relation", "gap"]),
    st.integers(0, 3),
    st.integers(0, 9),
)
batches = st.lists(st.lists(fact, max_size=6), max_size=6)


def facts_of(chosen: list[tuple[str, int, int]]) -> Facts:
    """What stands at an offset is always the same: facts are a function of the log."""
    facts = Facts()
    for kind, which, offset in chosen:
        key, frame = KEYS[which], b"%d at %d" % (which, offset)
        if kind == "post":
            facts.posts.append((key, offset, 100 + offset, frame))
        elif kind == "edit":
            facts.edits.append((key, offset, 100 + offset, frame))
        elif kind == "delete":
            facts.deletes.append((key, offset))
        elif kind == "relation":
            owner, other = PEOPLE[which % 2], PEOPLE[which // 2]
            facts.relations.append((owner, CLASSES[offset % 3], other, offset, offset % 4 < 2))
        else:
            facts.gaps.append(Gap(which, 0, offset, 0, 100 + offset, "cause"))
    return facts


@dataclass
class Model:
    """Everything that was ever said, and the verdict."""

    facts: list[tuple[str, int, int]] = field(default_factory=list)

    def row(self, which: int) -> PostRow | None:
        mine = [(kind, offset) for kind, at, offset in self.facts if at == which]
        posts = [offset for kind, offset in mine if kind == "post"]
        edits = [offset for kind, offset in mine if kind == "edit"]
        deletes = [offset for kind, offset in mine if kind == "delete"]
        if not (posts or edits or deletes):
            return None
        post, edit = min(posts, default=-1), max(edits, default=-1)
        return PostRow(
            post,
            100 + post if posts else 0,
            b"%d at %d" % (which, post) if posts and not deletes else b"",
            edit,
            100 + edit if edits else 0,
            b"%d at %d" % (which, edit) if edits and not deletes else b"",
            min(deletes, default=-1),
        )

    def relations(self, owner: int) -> list[tuple[int, int]]:
        newest: dict[tuple[int, int], tuple[int, bool]] = {}
        for kind, which, offset in self.facts:
            if kind == "relation" and PEOPLE[which % 2] == owner:
                at = (CLASSES[offset % 3], PEOPLE[which // 2])
                newest[at] = max(newest.get(at, (-1, False)), (offset, offset % 4 < 2))
        return sorted(at for at, (_, on) in newest.items() if on)

    def gaps(self) -> list[Gap]:
        last: dict[int, int] = {}
        for kind, which, offset in self.facts:
            if kind == "gap":
                last[which] = max(last.get(which, 0), offset)
        return sorted(Gap(p, 0, to, 0, 100 + to, "cause") for p, to in last.items())


def check(store: EmbeddedStore, model: Model) -> None:
    expected = [model.row(which) for which in range(len(KEYS))]
    assert store.post_rows(KEYS) == expected
    for author_at, author in enumerate(AUTHORS):
        entries = [
            OutboxEntry(post, row.offset, row.delete_offset)
            for post_at, post in reversed(list(enumerate(IDS)))
            if (row := expected[post_at * 2 + author_at]) is not None and row.offset >= 0
        ]
        assert store.outbox(author, b"", 10) == entries
    for owner in PEOPLE:
        assert sorted(store.relations_of(owner)) == model.relations(owner)
    assert store.gaps() == model.gaps()


def open_store(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder, identity="f", partitions=4, cell="c", home=HomeRange())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[EmbeddedStore]:
    return [open_store(tmp_path_factory.mktemp("rows") / name) for name in ("one", "two")]


def wipe(store: EmbeddedStore) -> None:
    for table in ("post", "outbox", "relation", "gap"):
        for key in list(store._tables[table].keys()):
            store._tables[table].delete(key)


@looks(60)
@given(said=batches, seed=st.integers(0, 2**32))
def test_store_agrees_with_the_model_in_any_order(
    shared: list[EmbeddedStore], said: list[list[tuple[str, int, int]]], seed: int
) -> None:
    one, two = shared
    wipe(one)
    wipe(two)
    model = Model()
    for chosen in said:
        one.write_rows(facts_of(chosen))
        model.facts += chosen
        check(one, model)
    dice = random.Random(seed)
    again = [chosen for batch in said for chosen in batch] + [c for b in said[:3] for c in b]
    dice.shuffle(again)
    while again:
        size = dice.randrange(1, 6)
        taken, again = again[:size], again[size:]
        if dice.random() < 0.5:
            two.write_all(facts_of(taken))
        else:
            two.write_rows(facts_of(taken))
    check(two, model)


def test_rows_that_stay_are_not_written_again() -> None:
    facts = facts_of([("post", 0, 5), ("edit", 0, 6)])
    first = rows.merge_posts(facts, KEYS[:1], [None])
    stored = rows.pack_post(first[KEYS[0]])
    assert rows.merge_posts(facts, KEYS[:1], [stored]) == {}
    later = facts_of([("delete", 0, 7)])
    assert list(rows.merge_posts(later, KEYS[:1], [stored])) == KEYS[:1]
