"""A cell's durable state on RocksDB: the embedded default of the port `Store`.

One process owns a store; several threads of it may read while one writes (writes take a lock).

    folder/rocks   RocksDB: one column family per table (cells/rows.py)
    folder/runs    sorted runs on their way in; what a crash left there is removed at open

Durability: the write-ahead log is on. Rows and small inbox batches are written in slices that
yield the GIL (rocksdict's `write` holds it) and synced once at the end; a big inbox batch becomes a
sorted run, synced and adopted. So what a method has answered is durable. `write_all` is one batch,
hence atomic. Facts merge the same in any order and any number of times (I2), and a post row is
always written before, or with, the keys that name it (I3).
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from rocksdict import Checkpoint, CompactOptions, IngestExternalFileOptions, WriteBatch

from cells import rows
from cells.rocks import (
    FAMILIES,
    bytes_in,
    merging_options,
    open_rocks,
    statistics,
    translate,
)
from cells.store_scans import StoreScans
from cells.store_writes import FactsWriter
from engine import limits
from engine.errors import Conflict, Misconfigured, Precondition, Unavailable
from engine.homing import HomeRange
from engine.keys import Keys, place_key
from engine.ports import Facts, Gap
from engine.runs import write_run

_META_KEY = b"cell"
_BEGUN_KEY = b"begun"
_log = logging.getLogger(__name__)


class EmbeddedStore(StoreScans):
    """`engine.ports.Store` on RocksDB. Use `EmbeddedStore.open`."""

    atomic = True
    remote = False
    bulk = False  # big batches are sorted runs whether it lags or not

    def __init__(self, folder: Path, partitions: int, read_only: bool) -> None:
        """Opens RocksDB; `open` also checks whose data it holds."""
        self.folder = folder
        self._runs = folder / "runs"
        if not read_only:
            _prepare_folder(folder, self._runs)
        rocks, self._options = open_rocks(folder / "rocks", read_only)
        super().__init__(rocks, partitions)
        self._handles = {name: rocks.get_column_family_handle(name) for name in FAMILIES}
        self._writer = FactsWriter(self._handles, self._get, partitions)
        self._writing = threading.RLock()
        self._read_only = read_only
        self._closed = False
        self._resting = False
        self._stall_ms = 0.0
        self._adopted = 0
        self._keys_written = 0
        self._bytes_written = 0

    @property
    def keys_aim(self) -> int:
        """A batch is closed when its inbox keys pass this."""
        return limits.WORKER_KEYS_AIM

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        identity: str,
        partitions: int,
        cell: str,
        home: HomeRange,
        read_only: bool = False,
    ) -> Self:
        """The store in `folder`, made when there is none.

        Raises Misconfigured (the store of another firehose, cell or home range), Precondition
        (another process owns it), NotFound (`read_only` and nothing there), Corruption, DiskFull.
        """
        store = cls(Path(folder), partitions, read_only)
        wanted = rows.Meta(identity, partitions, cell, home.first, home.last)
        try:
            store._check_meta(wanted)
            if not read_only:
                store._remove_leftovers()
        except BaseException:
            store.close()
            raise
        return store

    def _check_meta(self, wanted: rows.Meta) -> None:
        value = self._get("meta", [_META_KEY])[0]
        if value is None:
            if self._read_only:
                raise Misconfigured(f"{self.folder} holds no cell yet: start the cell once")
            self._begin()
            batch = self._writer.take()
            batch.put(_META_KEY, rows.pack_meta(wanted), self._handles["meta"])
            self._write(batch, "begin a store")
            return
        found = rows.unpack_meta(value)
        for name, advice in _META_ADVICE.items():
            mine, theirs = getattr(wanted, name), getattr(found, name)
            if mine != theirs:
                raise Misconfigured(
                    f"{self.folder} holds a cell with {name} {theirs}, not {mine}: {advice}"
                )

    def begun(self) -> dict[str, bytes]:
        """What was begun beside this store -> whose it was then."""
        value = self._get("meta", [_BEGUN_KEY])[0]
        return {} if value is None else rows.unpack_begun(value)

    def note_begun(self, what: str, owner: bytes) -> None:
        """Note that; synced."""
        with self._writing:
            self._begin()
            value = rows.pack_begun({**self.begun(), what: owner})
            self._writer.batch.put(_BEGUN_KEY, value, self._handles["meta"])
            self._write(self._writer.take(), "note what was begun")

    def _remove_leftovers(self) -> None:
        for path in self._runs.iterdir():
            path.unlink()

    # --- writes ----------------------------------------------------------------------------------

    def write_all(self, facts: Facts) -> None:
        """Rows, inbox keys and positions as one atomic, synced write (small batches)."""
        with self._writing:
            self._begin()
            for _ in self._writer.put_rows(facts):
                time.sleep(0)  # building a batch holds the GIL: let readers in
            for _ in self._writer.put_inbox(facts.inbox):
                time.sleep(0)
            self._writer.put_positions(facts.positions)
            self._write(self._writer.take(), "write a batch")
            self._keys_written += len(facts.inbox)

    def write_rows(self, facts: Facts) -> None:
        """Step 1: posts, edits, tombstones, outbox, toggles, relations, quarantine, gaps; synced.

        In slices, not atomic: nothing names these rows before step 2 or covers them before step 3.
        """
        with self._writing:
            self._begin()
            for _ in self._writer.put_rows(facts):
                self._append(self._writer.take(), "write rows")
                time.sleep(0)
            self._write(self._writer.take(), "write rows")

    def write_inbox(self, keys: Keys) -> None:
        """Step 2: inbox keys, u8 (n, 24), strictly ascending; durable on return.

        RUN_KEYS_MIN keys or more are adopted as a sorted run, fewer are put.
        """
        with self._writing:
            self._begin()
            if len(keys) >= limits.RUN_KEYS_MIN:
                self._adopt_run(keys)
            elif len(keys):
                for _ in self._writer.put_inbox(keys):
                    self._append(self._writer.take(), "write inbox keys")
                    time.sleep(0)
                self._sync("write inbox keys")
            self._keys_written += len(keys)

    def write_positions(self, positions: Mapping[int, tuple[int, int]]) -> None:
        """Step 3: partition -> (next offset, time ms), synced."""
        with self._writing:
            self._begin()
            self._writer.put_positions(positions)
            self._write(self._writer.take(), "write positions")

    def settle_quarantined(self, places: Sequence[tuple[int, int]], gaps: Sequence[Gap]) -> None:
        """Forget kept bad records by (partition, offset), and keep `gaps`; one synced write."""
        with self._writing:
            self._begin()
            for place in places:
                self._writer.batch.delete(place_key(*place), self._handles["quarantine"])
            for _ in self._writer.put_rows(Facts(gaps=list(gaps))):
                pass
            self._write(self._writer.take(), "settle bad records")

    def _begin(self) -> None:
        """Begin a write; drops what a call that failed half-way has left in the batch."""
        if self._closed:
            raise Unavailable("the store is closed")
        if self._read_only:
            raise Precondition(f"{self.folder} was opened for reading only")
        self._writer.take()

    def _append(self, batch: WriteBatch, what: str) -> None:
        """Write `batch` to log and memory, not yet synced; it cannot be used again."""
        if not len(batch):
            return
        self._bytes_written += batch.size_in_bytes()
        try:
            self._rocks.write(batch)
        except Exception as error:
            raise translate(error, what) from error

    def _write(self, batch: WriteBatch, what: str) -> None:
        self._append(batch, what)
        self._sync(what)

    def _sync(self, what: str) -> None:
        """Sync the log outside of the GIL (a synced `write` would hold it meanwhile)."""
        try:
            self._rocks.flush_wal(True)
        except Exception as error:
            raise translate(error, what) from error

    # --- sorted runs -----------------------------------------------------------------------------

    def _adopt_run(self, keys: Keys) -> None:
        """Lay out a run, sync it, let RocksDB adopt it: from then on it is durable."""
        self._merge_as(resting=False)
        self._wait_for_level0()
        path = self._runs / f"{self._adopted}.sst"
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        try:
            with open(path, "wb") as file:
                self._bytes_written += write_run(keys, file)
                file.flush()
                os.fsync(file.fileno())  # adopting syncs again, with nothing left to wait for
            if self._number("num-entries-active-mem-table"):
                self._inbox.flush()  # adopting would flush as well, but holding the GIL
            self._inbox.ingest_external_file([str(path)], options)
        except Exception as error:
            raise translate(error, "adopt a sorted run") from error
        finally:
            path.unlink(missing_ok=True)
        self._adopted += 1

    def _wait_for_level0(self) -> None:
        """Our brake: readers pay for every file at level 0. Raises Unavailable in the end."""
        if self._number("num-files-at-level0") <= limits.RUNS_AT_LEVEL0_MAX:
            return
        started = time.monotonic()
        while self._number("num-files-at-level0") > limits.RUNS_AT_LEVEL0_MAX:
            time.sleep(limits.LEVEL0_NAP_MS / 1_000)
            if time.monotonic() - started > limits.LEVEL0_WAIT_MS_MAX / 1_000:
                raise Unavailable(
                    f"merging is behind by more than {limits.RUNS_AT_LEVEL0_MAX} sorted runs for"
                    f" {limits.LEVEL0_WAIT_MS_MAX // 1_000} s: the disk is too slow or full"
                )
        self._stall_ms += (time.monotonic() - started) * 1_000

    def rest(self) -> None:
        """Nobody writes: merge for the readers, until the next run. Small runs with one another,
        and all into one when the newer ones are a good part of it: that pays for itself."""
        self._merge_as(resting=True)

    def _merge_as(self, resting: bool) -> None:
        """How RocksDB chooses what to merge; a change lets it look at once."""
        if resting == self._resting:
            return
        try:
            self._inbox.set_options(merging_options(resting))
        except Exception as error:
            raise translate(error, "change how it merges") from error
        self._resting = resting

    def pressure(self) -> float:
        """1.0 up to RUNS_AT_EASE_MAX files at level 0, then in proportion to them."""
        return max(self._number("num-files-at-level0") / limits.RUNS_AT_EASE_MAX, 1.0)

    def _number(self, name: str) -> int:
        """One of the inbox table's numbers."""
        try:
            return int(self._inbox.property_value(f"rocksdb.{name}") or 0)
        except Exception as error:
            raise translate(error, "tell its numbers") from error

    def compact_inbox(self) -> None:
        """Merge all sorted runs of the inbox into one: for benches and idle moments. Reads and
        writes go on meanwhile."""
        options = CompactOptions()
        options.set_exclusive_manual_compaction(False)
        try:
            self._inbox.compact_range(None, None, options)
        except Exception as error:
            raise translate(error, "merge the inbox") from error

    # --- the whole store -------------------------------------------------------------------------

    def flush(self) -> None:
        """Memory to files, beside everything else: what a checkpoint would do, holding the GIL."""
        try:
            for table in self._tables.values():
                table.flush()
        except Exception as error:
            raise translate(error, "write its memory to files") from error

    def checkpoint(self, folder: str) -> None:
        """A consistent copy in `folder` (hard links where the disk is the same), which
        `EmbeddedStore.open` opens. Raises Conflict when `folder` exists."""
        place = Path(folder)
        if place.exists():
            raise Conflict(f"{folder} exists: name a new folder for the checkpoint")
        self.flush()
        try:
            place.mkdir(parents=True)
            Checkpoint(self._rocks).create_checkpoint(str(place / "rocks"))
        except Exception as error:
            shutil.rmtree(place, ignore_errors=True)
            raise translate(error, f"write a checkpoint to {folder}") from error

    def check_whole(self, cell: str) -> None:
        """A restore would need the cell's lock."""

    def forget_checkpoint(self, folder: str) -> None:
        """A checkpoint is its folder."""

    def stats(self) -> dict[str, int]:
        """disk_bytes; files_level0 and sorted_runs of the inbox; merges that run now; since open:
        compaction_bytes (written by merging and flushing), stall_ms, runs_adopted,
        inbox_keys_written, bytes_written (log and runs)."""
        if self._closed:
            raise Unavailable("the store is closed")
        tickers = statistics(self._options.get_statistics() or "")
        return {
            "disk_bytes": bytes_in(self.folder),
            "files_level0": self._number("num-files-at-level0"),
            "sorted_runs": self._sorted_runs(),
            "merges": self._number("num-running-compactions"),
            "compaction_bytes": tickers.get("rocksdb.compact.write.bytes", 0)
            + tickers.get("rocksdb.flush.write.bytes", 0),
            "stall_ms": round(self._stall_ms),
            "runs_adopted": self._adopted,
            "inbox_keys_written": self._keys_written,
            "bytes_written": self._bytes_written,
        }

    def _sorted_runs(self) -> int:
        """What a page has to look into: each file at level 0, each filled level."""
        levels = [self._number(f"num-files-at-level{level}") for level in range(_LEVELS)]
        return levels[0] + sum(1 for files in levels[1:] if files)

    def close(self) -> None:
        """Give the lock back. Idempotent. What was answered is durable already, so a disk that is
        full does not keep a store from closing. Raises Corruption."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            self._handles.clear()
            for handle in [*self._tables.values(), self._rocks]:  # it closes with the last one
                try:
                    handle.close()
                except Exception as error:
                    fault = translate(error, "flush its memory at the end")
                    if not isinstance(fault, Unavailable):
                        raise fault from error
                    _log.warning("%s", fault)


_LEVELS = 7  # RocksDB's default
_META_ADVICE = {
    "format": "use the software that wrote it, or rebuild the cell in a new folder",
    "identity": "this is the store of another firehose; configure that firehose, or give the cell"
    " a new folder",
    "partitions": "the number of partitions can never change; set it back",
    "cell": "this is another cell's store; correct the name or the folder",
    "home_first": "its users' range has changed; set the shares back, or rebuild the cell in a new"
    " folder",
    "home_last": "its users' range has changed; set the shares back, or rebuild the cell in a new"
    " folder",
}


def _prepare_folder(folder: Path, runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise translate(error, f"make its folder {folder}") from error
