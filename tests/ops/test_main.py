"""The command line itself: help, exit codes, settings and tokens commands, package check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from engine.version import VERSION
from ops.app import COMMANDS, build_app
from ops.main import main
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def commands() -> list[list[str]]:
    """Every command and sub-command that help names, but those with options of their own."""
    import typer.main

    found = []
    group = typer.main.get_group(build_app())
    for name, command in group.commands.items():
        if name in ("demo", "bench"):
            continue
        subcommands = getattr(command, "commands", None)
        found += [[name, sub] for sub in subcommands] if subcommands else [[name]]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_examples(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    for part in ("--config", "--json", "Examples:", f"firecell {' '.join(command)}"):
        assert part in shown, part


def test_help_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "Start here" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"firecell {VERSION}\n"
    assert main([]) == 2
    assert main(["nonsense"]) == 2
    assert main(["post", "7"]) == 2
    assert "TEXT" in capsys.readouterr().err


def test_the_version_is_that_of_pyproject() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert document["project"]["version"] == VERSION


def test_every_command_file_is_listed() -> None:
    files = {
        path.stem for path in (ROOT / "ops").glob("*.py") if "def register(" in path.read_text()
    }
    assert files == set(COMMANDS)


def test_init_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    written = (tmp_path / "firecell.toml").read_text()
    assert main(["init"]) == 3
    assert (tmp_path / "firecell.toml").read_text() == written
    assert main(["init", "--config", "deep/er.toml"]) == 0
    assert main(["config", "check", "--config", "deep/er.toml"]) == 0
    capsys.readouterr()
    assert main(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(tmp_path / "firecell.toml"), "cells": ["c1"],
    }  # fmt: skip


def test_config_show_tells_where_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "firecell.toml").write_text("[firehose]\npartitions = 4\n")
    monkeypatch.setenv("FIRECELL_HTTP__PORT", "9")
    assert main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["firehose.partitions"] == {"value": 4, "source": str(tmp_path / "firecell.toml")}
    assert shown["http.port"] == {"value": "9", "source": "environment FIRECELL_HTTP__PORT"}
    assert shown["data.folder"] == {"value": "./data", "source": "default"}
    assert main(["config", "show"]) == 0
    assert "FIRECELL_HTTP__PORT" in capsys.readouterr().out
    monkeypatch.setenv("FIRECELL_HTTP__PROT", "9")
    assert main(["config", "check"]) == 2
    assert "did you mean 'http.port'" in capsys.readouterr().err


def test_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "create", "--scope", "read", "--scope", "marker", "--name", "site"]) == 0
    token = capsys.readouterr().out.strip()
    assert token.startswith("fc_")
    assert main(["tokens", "create", "--scope", "reed"]) == 2
    assert main(["tokens", "list"]) == 0
    shown = capsys.readouterr().out
    assert "site" in shown and "read, marker" in shown and token not in shown
    assert main(["tokens", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["site"]
    assert main(["tokens", "revoke", "site"]) == 0
    assert main(["tokens", "revoke", "site"]) == 4


def command_line(*arguments: str, path: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "ops.main", *arguments], capture_output=True, text=True,
        check=False, cwd=cwd, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_packages_of_another_project_are_refused(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("")
    done = command_line("--version", path=f"{tmp_path}{os.pathsep}{ROOT}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"the package 'engine' comes from {tmp_path}" in done.stderr
    assert str(ROOT) in done.stderr


def test_a_package_in_the_working_folder_is_never_ours(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('the wrong engine')")
    done = command_line("--version", path=str(ROOT), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"firecell {VERSION}\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -P -m ops.main config show | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert b"Traceback" not in done.stderr and b"rror" not in done.stderr


def test_help_is_quick_without_the_heavy_parts() -> None:
    script = "import sys; from ops.main import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for heavy in ("numba", "numpy", "rocksdict", "uvicorn", "httpx", "lmdb", "starlette"):
        assert f"'{heavy}'" not in done.stdout, heavy
