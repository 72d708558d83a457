"""RocksDB as the embedded store opens it: options with their reasons, and errors as ours.

| choice | reason (measured on 2 cores; 60-80 M keys) |
| --- | --- |
| inbox: universal compaction, 4 runs | merging costs 0.28 us of a core per key and pass, which |
|   | bounds adoption. At rest few runs are left; the further adoption is ahead, the wider the |
|   | merges and the fewer the passes. Levels rewrite their whole base each time |
| two threads may share a merge | 3.1 -> 5.1 M keys/s sustained |
| four jobs on two cores | new runs are merged while a great merge is on: 3.0 -> 4.4 M keys/s, the |
|   | longest wait for the brake 12 -> 3.5 s |
| merges hand their output to the disk as they go | else a batch's sync waits for all of it |
| merging threads are nice | on 2 cores they took a batch's time from it, and from pages |
| LZ4 on merged files | half the bytes, no more CPU than none; runs themselves stay plain |
| our own brake instead of RocksDB's | its stalls sleep inside `write`, which holds the GIL |
| index and filters outside the block cache | a page must never wait for an index block |
| post rows: bloom filter, hash index in the block | a lookup of what is missing reads nothing |
| statistics on | compaction bytes; the cost was not measurable |

rocksdict raises bare `Exception` with RocksDB's status text: `translate` is the only place that
reads those texts. RocksDB gets over a full disk by itself: it looks every 5 s, and once as much as
one write buffer is free the same handle writes again; reads never stop. That was tried for its log,
manifest, flush and adopted files, and is tested; so a store is never reopened behind its readers'
backs.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DataBlockIndexType,
    DbClosedError,
    DBCompactionStyle,
    DBCompressionType,
    Env,
    Options,
    Rdict,
    UniversalCompactOptions,
)

from engine import limits
from engine.errors import (
    Corruption,
    DiskFull,
    FirecellError,
    Misconfigured,
    NotFound,
    Precondition,
    Unavailable,
)

FAMILIES = (
    "meta",
    "position",
    "post",
    "outbox",
    "toggle",
    "following",
    "relation",
    "inbox",
    "quarantine",
    "gap",
)
_FULL = ("no space left", "disk quota exceeded", "space limit reached", "out of disk space")
_CORRUPT = ("corruption", "checksum mismatch", "no such file", "not an sstable", "bad magic")
_LOCKED = ("while lock file", "lock hold by current process")


def translate(error: Exception, what: str) -> Exception:
    """Our error for one of rocksdict's or the operating system's; others come back as they are."""
    if isinstance(error, FirecellError):
        return error
    if isinstance(error, DbClosedError):
        return Unavailable(f"the store was closed while it was asked to {what}")
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _disk_full(what)
        return Unavailable(f"the store could not {what}: {error}; it is tried again")
    if type(error) is not Exception:
        return error  # a fault of ours, not RocksDB's
    text = str(error)
    lowered = text.lower()
    if any(sign in lowered for sign in _FULL):
        return _disk_full(what)
    if any(sign in lowered for sign in _CORRUPT):
        return Corruption(
            f"the store could not {what}, its files are damaged: {text}. Nothing was changed."
            " Restore a snapshot of this cell or rebuild it; keep the folder for inspection"
        )
    return Unavailable(f"the store could not {what}: {text}; it is tried again")


def _disk_full(what: str) -> DiskFull:
    return DiskFull(
        f"the disk is full: the store could not {what}. Free some space; what was acknowledged is"
        " safe, reads go on, and writing goes on by itself some seconds later"
    )


def open_rocks(folder: Path, read_only: bool) -> tuple[Rdict, Options]:
    """RocksDB in `folder`, with the options that its statistics hang on.

    Waits SUCCESSOR_WAIT_S for another process's lock. Raises Precondition (still locked), NotFound
    (nothing to read), Corruption, DiskFull, Unavailable.
    """
    _check_folder(folder, read_only)
    cache = Cache.new_hyper_clock_cache(limits.BLOCK_CACHE_BYTES, limits.BLOCK_CACHE_ENTRY_BYTES)
    options = _database_options()
    families = {name: _family_options(name, cache) for name in FAMILIES}
    access = AccessType.read_only(False) if read_only else AccessType.read_write()
    deadline = time.monotonic() + limits.SUCCESSOR_WAIT_S
    while True:
        try:
            return Rdict(str(folder), options, families, access), options
        except Exception as error:
            lowered = str(error).lower()
            if not any(sign in lowered for sign in _LOCKED):
                if "column families not opened" in lowered:
                    raise Misconfigured(
                        f"{folder} has tables that this version does not know: {error}; use the"
                        " software that wrote it"
                    ) from error
                raise translate(error, f"open {folder}") from error
        if time.monotonic() > deadline:
            raise Precondition(
                f"another worker owns {folder}: one process at a time fans out and reads there;"
                " stop the other one first"
            )
        time.sleep(limits.OPEN_NAP_MS / 1_000)


def _check_folder(folder: Path, read_only: bool) -> None:
    """RocksDB would quietly begin anew where only the file CURRENT is lost. (With neither table nor
    log nothing was ever stored: the first opening was cut short.)"""
    if (folder / "CURRENT").exists():
        return
    if any(folder.glob("*.sst")) or any(folder.glob("*.log")):
        raise Corruption(
            f"the store in {folder} has lost its file CURRENT. Nothing was changed. Restore a"
            " snapshot of this cell or rebuild it; keep the folder for inspection"
        )
    if read_only:
        raise NotFound(f"there is no store in {folder}")


def _database_options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_size(limits.WRITE_BUFFER_BYTES)  # the unused default family's
    options.set_max_background_jobs(limits.COMPACTION_JOBS)
    options.set_max_subcompactions(limits.COMPACTION_PARTS_MAX)
    options.set_max_open_files(-1)
    options.set_max_total_wal_size(limits.WAL_BYTES_MAX)
    options.set_bytes_per_sync(limits.SYNC_EVERY_BYTES)
    options.set_wal_bytes_per_sync(limits.SYNC_EVERY_BYTES)
    environment = Env()
    environment.lower_thread_pool_cpu_priority()
    options.set_env(environment)
    options.set_keep_log_file_num(limits.STORE_LOG_FILES)
    options.enable_statistics()
    return options


def _family_options(name: str, cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(limits.WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(limits.WRITE_BUFFERS_MAX)
    options.set_level_zero_slowdown_writes_trigger(limits.WRITE_STALL_FILES)
    options.set_level_zero_stop_writes_trigger(limits.WRITE_STALL_FILES)
    options.set_soft_pending_compaction_bytes_limit(0)  # 0: never
    options.set_hard_pending_compaction_bytes_limit(0)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_format_version(5)
    table.set_block_size(limits.INBOX_BLOCK_BYTES)
    if name in ("post", "relation"):
        table.set_block_size(limits.POST_BLOCK_BYTES)
        table.set_bloom_filter(limits.BLOOM_BITS, False)
        table.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
    options.set_block_based_table_factory(table)
    if name == "inbox":
        universal = UniversalCompactOptions()
        universal.min_merge_width = limits.INBOX_MERGE_WIDTH
        universal.max_size_amplification_percent = limits.INBOX_NEWER_PERCENT_MAX
        options.set_compaction_style(DBCompactionStyle.universal())
        options.set_universal_compaction_options(universal)
        options.set_level_zero_file_num_compaction_trigger(limits.INBOX_RUNS_MIN)
    return options


def statistics(text: str) -> dict[str, int]:
    """The tickers of RocksDB's statistics: lines like `rocksdb.x.y COUNT : 12`."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[1:3] == ["COUNT", ":"]:
            found[words[0]] = int(words[3])
    return found


def bytes_in(folder: Path) -> int:
    """Bytes of the files below `folder`; those that go away meanwhile do not count."""
    total = 0
    for entry in folder.rglob("*"):
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        total += status.st_size
    return total


def merging_options(resting: bool) -> dict[str, str]:
    """What the inbox's table is told when its cell comes to rest, and when it writes again."""
    runs = limits.INBOX_RUNS_REST if resting else limits.INBOX_RUNS_MIN
    percent = limits.INBOX_NEWER_PERCENT_REST if resting else limits.INBOX_NEWER_PERCENT_MAX
    width = limits.INBOX_MERGE_WIDTH_REST if resting else limits.INBOX_MERGE_WIDTH
    return {
        "level0_file_num_compaction_trigger": str(runs),
        "compaction_options_universal": (
            f"{{min_merge_width={width};max_size_amplification_percent={percent}}}"
        ),
    }
