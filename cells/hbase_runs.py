"""The bulk path: the inbox keys of a big batch as HFiles, cut at region boundaries, adopted by
HBase.

1. lay out   while the batch's rows are put: the files' bytes go to HBase's file system, where
             nobody sees them
2. adopt     when the rows are durable (I1): one bulk load moves them into the table

What was laid out for a batch that is tried again is used again; what nobody adopts any more is
swept away later (cells/hbase_loader.py). One thread calls `begin` and `adopt`; laying out is a
thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from cells.hbase_client import HBaseClient
from cells.hbase_frames import FAMILY
from cells.hbase_loader import Helper
from engine import limits
from engine.errors import Unavailable
from engine.hfiles import cut, hfile_chunks
from engine.keys import Keys


def now_ms() -> int:
    """Unix milliseconds: the timestamp of adopted keys, as HBase would give it to put ones."""
    return time.time_ns() // 1_000_000


class Runs:
    """Sorted runs on their way into the inbox of one cell."""

    def __init__(self, client: HBaseClient, helper: Helper) -> None:
        self._client = client
        self._helper = helper
        self._table = client.table("inbox").decode()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hbase-runs")
        self._begun: tuple[Keys, Future[str]] | None = None
        self.keys_adopted = 0
        self.runs_adopted = 0
        self.bytes_written = 0
        self.files = 0  # of the region with the most, as seen last

    def begin(self, keys: Keys) -> None:
        """Lay out `keys`, u8 (n, 24), strictly ascending, in the background."""
        if self._begun is None or self._begun[0] is not keys:
            self._begun = keys, self._pool.submit(self._lay_out, keys)

    def adopt(self, keys: Keys) -> None:
        """Let HBase adopt `keys`; durable on return. When it raises, some regions may have theirs:
        adopt again. Raises Unavailable, DiskFull."""
        self.begin(keys)
        begun, self._begun = self._begun, None
        if begun is not None:
            self._helper.adopt(self._table, begun[1].result())
            self.keys_adopted += len(keys)

    def _lay_out(self, keys: Keys) -> str:
        """The folder on HBase's file system with one file per region that `keys` touch."""
        self._wait_for_merging()
        time_ms = now_ms()
        parts = cut(keys, self._client.regions("inbox"))
        files = [self._counted(hfile_chunks(part, FAMILY, time_ms)) for part in parts]
        self.runs_adopted += len(files)
        return self._helper.stage(files)

    def _wait_for_merging(self) -> None:
        """Hold back while HBase merges too slowly: readers look into every file of a region."""
        deadline = time.monotonic() + limits.HBASE_FILES_WAIT_S
        while (files := self._helper.files(self._table)) > limits.HBASE_FILES_MAX:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"a region of {self._table} has {files} files, and HBase has not merged them"
                    f" within {limits.HBASE_FILES_WAIT_S} s: see its log; the cell waits and tries"
                    " again"
                )
            time.sleep(limits.HBASE_FILES_NAP_S)
        self.files = files

    def _counted(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            self.bytes_written += len(chunk)
            yield chunk

    def close(self) -> None:
        """End the helper; what is being laid out is given up."""
        self._helper.close()
        self._pool.shutdown(cancel_futures=True)
