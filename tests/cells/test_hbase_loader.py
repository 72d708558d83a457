"""The Java helper as a process, played by a small Python program: what it says becomes our errors,
what it does not say in time ends it, and the next command starts another one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cells.hbase_loader import Helper
from engine import limits
from engine.errors import DiskFull, Misconfigured, Unavailable

_PROGRAM = """
import os, struct, sys, time
diary, kind = sys.argv[1:]
source = sys.stdin.buffer
def answer(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
answer("ready")
for line in iter(source.readline, b""):
    words = line.decode().rstrip("\\n").split("\\t")
    with open(diary, "a") as file:
        file.write(" ".join(words) + "\\n")
    if words[0] == "stage":
        for _ in range(int(words[1])):
            while size := struct.unpack(">i", source.read(4))[0]:
                source.read(size)
                if kind == "dies":
                    sys.stderr.write("out of memory\\n")
                    os._exit(1)
        if kind == "hangs":
            time.sleep(60)
        answer("ok\\tx" if kind in ("well", "dies", "hangs") else "error\\t" + kind)
    else:
        answer("ok\\t7" if words[0] == "files" else "ok")
"""


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Callable[[str], Helper]]:
    made: list[Helper] = []

    def make(kind: str) -> Helper:
        command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "diary"), kind]
        made.append(Helper(command))
        return made[-1]

    yield make
    for one in made:
        one.close()


def diary(folder: Path) -> list[str]:
    return (folder / "diary").read_text().splitlines()


FILES = [[b"one", b"more"], [b"two"]]


def test_it_sweeps_once_and_stages(helper: Callable[[str], Helper], tmp_path: Path) -> None:
    one = helper("well")
    assert one.stage(FILES) == "x"
    one.stage(FILES)
    one.adopt("c1.inbox", "x")
    assert one.files("c1.inbox") == 7
    assert diary(tmp_path) == [
        f"sweep {limits.HBASE_STAGED_S}",
        "stage 2",
        "stage 2",
        "adopt c1.inbox x",
        "files c1.inbox",
    ]


@pytest.mark.parametrize(
    "said",
    [
        "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException: The DiskSpace quota is exceeded",
        "File /run0 could only be written to 0 of the 1 minReplication nodes",
        "java.io.IOException: No space left on device",
    ],
)
def test_a_full_file_system_is_named_diskfull(helper: Callable[[str], Helper], said: str) -> None:
    with pytest.raises(DiskFull, match=r"no room to stage 2 files: .*free some"):
        helper(said).stage(FILES)


def test_a_missing_right_is_named(helper: Callable[[str], Helper]) -> None:
    said = "org.apache.hadoop.security.AccessControlException: Permission denied: user=me"
    with pytest.raises(
        Unavailable, match=r"may not stage .* right to write under firecell-staging"
    ):
        helper(said).stage(FILES)


def test_any_other_error_is_told_and_the_helper_lives_on(
    helper: Callable[[str], Helper], tmp_path: Path
) -> None:
    one = helper("java.io.IOException: region is away")
    with pytest.raises(Unavailable, match=r"could not stage 2 files: .*region is away"):
        one.stage(FILES)
    assert one.files("c1.inbox") == 7


def test_one_that_dies_within_a_file_is_named_and_replaced_kill(
    helper: Callable[[str], Helper], tmp_path: Path
) -> None:
    one = helper("dies")
    with pytest.raises(Unavailable, match="out of memory"):
        one.stage([[bytes(2**20)] * 4])
    assert one.files("c1.inbox") == 7
    with pytest.raises(Unavailable):
        one.stage([[bytes(2**20)] * 4])
    assert diary(tmp_path).count(f"sweep {limits.HBASE_STAGED_S}") == 2  # by each one


def test_one_that_takes_too_long_is_ended(
    helper: Callable[[str], Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = helper("hangs")
    assert one.files("c1.inbox") == 7
    monkeypatch.setattr(limits, "HBASE_LOAD_S", 0.5)
    with pytest.raises(Unavailable, match="took too long"):
        one.stage(FILES)
    assert one.files("c1.inbox") == 7


def test_a_source_of_bytes_that_fails_leaves_no_half_file(
    helper: Callable[[str], Helper], tmp_path: Path
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    one = helper("well")
    with pytest.raises(ValueError, match="no more"):
        one.stage([broken()])
    one.stage(FILES)
    assert diary(tmp_path)[-1] == "stage 2"


def test_a_command_that_cannot_run_is_named() -> None:
    with pytest.raises(Misconfigured, match="name a JDK"):
        Helper(["/nowhere/java"]).files("c1.inbox")
