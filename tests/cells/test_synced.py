"""What markers and decisions share: a damaged file is a named error, not the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cells.markers import EmbeddedMarkers
from tests.conftest import ROOT

_CHILD = """
import sys
from pathlib import Path
from cells.markers import EmbeddedMarkers
from engine.errors import Corruption
try:
    markers = EmbeddedMarkers.open(Path(sys.argv[1]))
    print(sum(markers.get(reader) is not None for reader in range(5_000)))
except Corruption as error:
    sys.exit(error.exit_code)
"""


def read(folder: Path) -> tuple[int, str]:
    """(exit code, how many markers) of a process that looks up all of them."""
    command = [sys.executable, "-c", _CHILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, timeout=60, check=False, capture_output=True)
    return done.returncode, done.stdout.decode().strip()


@pytest.mark.parametrize("left", [8_192, 12_288, 13_000, 0.5, 0.98])
def test_a_file_cut_short_is_corruption_and_no_signal(tmp_path: Path, left: float) -> None:
    """SIGBUS ended the cell at the first marker that lay beyond the end, without a word. (A walk
    over all of them LMDB itself may abort: cells/snapshot_restore.py.)"""
    markers = EmbeddedMarkers.open(tmp_path / "markers")
    markers.advance_many([(reader, reader) for reader in range(5_000)])
    markers.close()
    assert read(tmp_path / "markers") == (0, "5000")
    file = tmp_path / "markers" / "data.mdb"
    os.truncate(file, int(left if left > 1 else file.stat().st_size * left))
    assert read(tmp_path / "markers") in ((3, ""), (0, "5000")), "lost, or of no use to anybody"
