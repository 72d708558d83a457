"""What markers and decisions share: a damaged file is a named error, not the end of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cells.markers import EmbeddedMarkers
from engine.errors import Unavailable
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
    """SIGBUS ended the cell at the first marker that lay beyond the end, without a word. Then
    what was missing read as empty pages, and some of the markers were no more (I7)."""
    markers = EmbeddedMarkers.open(tmp_path / "markers")
    markers.advance_many([(reader, reader) for reader in range(5_000)])
    markers.close()
    assert read(tmp_path / "markers") == (0, "5000")
    file = tmp_path / "markers" / "data.mdb"
    os.truncate(file, int(left if left > 1 else file.stat().st_size * left))
    size = file.stat().st_size
    for _ in range(2):  # the first did not make it look whole
        assert read(tmp_path / "markers") == (3, ""), "lost, or of no use to anybody"
        assert file.stat().st_size == size


def test_a_file_that_lacks_only_pages_of_no_use_is_used(tmp_path: Path) -> None:
    """LMDB need not have written a page that it gave back before the commit."""
    markers = EmbeddedMarkers.open(tmp_path)
    markers.advance_many([(reader, reader) for reader in range(5_000)])
    with markers._opened().begin(write=True) as transaction:
        for reader in range(10, 5_000):
            transaction.delete(reader.to_bytes(8, "big"))
    for post in range(10, 14):
        markers.advance(3, post)
    markers.close()
    file = tmp_path / "data.mdb"
    full = file.stat().st_size
    os.truncate(file, full // 8_192 * 4_096)
    markers = EmbeddedMarkers.open(tmp_path)
    assert len(list(markers.all())) == 10 and markers.get(3) == 13
    markers.close()
    assert file.stat().st_size == full


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_walk_that_was_killed_says_nothing_of_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The OOM killer's victim counted as damage, and healthy markers were put aside (I7)."""
    EmbeddedMarkers.open(tmp_path).close()
    assert EmbeddedMarkers.whole(tmp_path)
    killed = subprocess.CompletedProcess([], -number, b"", b"")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: killed)
    with pytest.raises(Unavailable, match=f"ended with -{int(number)}"):
        EmbeddedMarkers.whole(tmp_path)
