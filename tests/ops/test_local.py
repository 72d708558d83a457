"""Commands without a running Firecell: one runs as long as the command, on the same data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.main import main
from topics.runfiles import running

pytestmark = pytest.mark.slow


def test_commands_open_the_stores_when_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["follow", "1", "9"]) == 0
    assert main(["post", "9", "hello"]) == 0
    assert "starting one for this command" in capfd.readouterr().err
    assert main(["dashboard", "1", "--json"]) == 0
    page = json.loads(capfd.readouterr().out)
    assert [post["text"] for post in page["posts"]] == ["hello"]
    assert running(tmp_path / "data") == [], "nothing is left running"


def test_what_cannot_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_text("a file where the folder should be")
    assert main(["post", "9", "hello"]) == 1
    assert "did not become ready" in capfd.readouterr().err
