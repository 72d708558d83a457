"""Sorted runs in RocksDB: what we lay out reads like what RocksDB itself would have written."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from rocksdict import IngestExternalFileOptions, Options, Rdict, SstFileWriter

from cells.store_embedded import EmbeddedStore
from engine import limits
from engine.errors import Corruption, Unavailable
from engine.homing import HomeRange
from engine.keys import INBOX_KEY_BYTES, Keys, inbox_keys
from engine.limits import RUN_KEYS_MIN
from engine.runs import write_run

READERS = 60


def open_store(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder, identity="f", partitions=4, cell="c", home=HomeRange())


def run_of(count: int, dice: np.random.Generator) -> Keys:
    """Strictly ascending keys of few readers; runs of one generator overlap everywhere."""
    readers = dice.integers(0, READERS, count).astype(np.uint64) << np.uint64(57)
    posts = dice.integers(0, count * 3, count).astype(np.uint64)
    keys = inbox_keys(readers, posts, posts % np.uint64(5))
    joined = keys.tobytes()
    whole = sorted({joined[at : at + 24] for at in range(0, len(joined), 24)})
    return np.frombuffer(b"".join(whole), dtype=np.uint8).reshape(-1, INBOX_KEY_BYTES)


def inbox_of(store: EmbeddedStore) -> bytes:
    return b"".join(
        store.inbox_older(reader << 57, b"", 10 * RUN_KEYS_MIN) for reader in range(READERS)
    )


def test_adopt_compact_restart_compare(tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    model: set[bytes] = set()
    store = open_store(tmp_path)
    for turn in range(6):
        keys = run_of(RUN_KEYS_MIN * 2 if turn % 3 else 900, dice)
        store.write_inbox(keys)
        joined = keys.tobytes()
        model.update(joined[at : at + 24] for at in range(0, len(joined), 24))
        assert inbox_of(store) == b"".join(sorted(model))
        if turn == 3:
            store.close()
            store = open_store(tmp_path)
            assert inbox_of(store) == b"".join(sorted(model))
    store.compact_inbox()
    assert store.stats()["sorted_runs"] == 1
    assert inbox_of(store) == b"".join(sorted(model))
    store.close()
    store = open_store(tmp_path)
    assert inbox_of(store) == b"".join(sorted(model))
    _walk_compare(store, sorted(model))
    store.close()


def _walk_compare(store: EmbeddedStore, every: list[bytes]) -> None:
    """Random slices of random readers, both ways."""
    dice = random.Random(3)
    by_reader: dict[bytes, list[bytes]] = {}
    for key in every:
        by_reader.setdefault(key[:8], []).append(key)
    for _ in range(100):
        prefix = dice.choice(sorted(by_reader))
        reader, mine = int.from_bytes(prefix, "big"), by_reader[prefix]
        place = dice.randrange(len(mine))
        assert store.inbox_older(reader, mine[place], 20) == b"".join(mine[place + 1 :][:20])
        newer = mine[:place][::-1][:20]
        assert store.inbox_newer(reader, mine[place], 20) == b"".join(newer)


def test_reads_like_the_file_of_sst_file_writer(tmp_path: Path) -> None:
    keys = run_of(3_000, np.random.default_rng(7))
    joined = keys.tobytes()
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    with open(tmp_path / "ours.sst", "wb") as file:
        write_run(keys, file)
    writer = SstFileWriter(Options(raw_mode=True))
    writer.open(str(tmp_path / "theirs.sst"))
    for at in range(0, len(joined), 24):
        writer[joined[at : at + 24]] = b""
    writer.finish()
    contents, entries = [], []
    for name in ("ours", "theirs"):
        rocks = Rdict(str(tmp_path / name), options)
        rocks.ingest_external_file([str(tmp_path / f"{name}.sst")], IngestExternalFileOptions())
        contents.append(list(rocks.items()))
        (file_now,) = rocks.live_files()
        entries.append((file_now["num_entries"], file_now["start_key"], file_now["end_key"]))
        starts = [joined[at : at + 24] for at in range(0, len(joined), 24 * 97)]
        contents[-1] += [next(iter(rocks.items(from_key=start))) for start in starts]
        contents[-1] += [next(iter(rocks.items(True, from_key=start))) for start in starts]
        rocks.close()
    assert contents[0] == contents[1]
    assert entries[0] == entries[1]


def test_disordered_run_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    keys = run_of(RUN_KEYS_MIN * 2, np.random.default_rng(2))
    swapped = keys.copy()
    swapped[[5, 6]] = swapped[[6, 5]]
    with pytest.raises(Corruption, match="ascend"):
        store.write_inbox(swapped)
    assert list((tmp_path / "runs").iterdir()) == []
    assert store.stats()["inbox_keys_written"] == 0
    store.write_inbox(keys)
    assert inbox_of(store) == keys.tobytes()
    store.close()


def test_leftover_of_a_crash_is_removed_at_open(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "runs" / "0.sst").write_bytes(b"half a run")
    store = open_store(tmp_path)
    assert list((tmp_path / "runs").iterdir()) == []
    store.close()


def test_brake_waits_for_compaction_and_gives_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    behind = [9]
    monkeypatch.setattr(limits, "RUNS_AT_LEVEL0_MAX", 3)
    real = store._number

    def fake(name: str) -> int:
        if name != "num-files-at-level0":
            return real(name)
        behind[0] -= 1
        return behind[0]

    monkeypatch.setattr(store, "_number", fake)
    keys = run_of(RUN_KEYS_MIN * 2, np.random.default_rng(2))
    store.write_inbox(keys)
    monkeypatch.setattr(store, "_number", real)
    assert store.stats()["stall_ms"] >= limits.LEVEL0_NAP_MS
    assert inbox_of(store) == keys.tobytes()
    monkeypatch.setattr(store, "_number", lambda name: 99)
    monkeypatch.setattr(limits, "LEVEL0_WAIT_MS_MAX", 20)
    with pytest.raises(Unavailable, match="merging is behind"):
        store.write_inbox(keys)
    monkeypatch.setattr(store, "_number", real)
    store.close()


def test_stats_count_what_was_done(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for seed in range(3):
        store.write_inbox(run_of(RUN_KEYS_MIN * 2, np.random.default_rng(seed)))
    store.write_inbox(run_of(100, np.random.default_rng(9)))
    stats = store.stats()
    assert stats["runs_adopted"] == 3
    assert stats["inbox_keys_written"] > 3 * RUN_KEYS_MIN
    assert stats["bytes_written"] > 24 * 3 * RUN_KEYS_MIN
    assert stats["disk_bytes"] > 24 * 3 * RUN_KEYS_MIN
    assert stats["compaction_bytes"] >= 0
    store.compact_inbox()
    after = store.stats()
    assert after["compaction_bytes"] > stats["compaction_bytes"]
    assert after["files_level0"] <= 1 and after["sorted_runs"] == 1
    store.close()
    with pytest.raises(Unavailable):
        store.stats()
