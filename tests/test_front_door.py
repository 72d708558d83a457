"""./run, what is installed, and what the wheel holds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = {"engine", "topics", "cells", "ops", "bench"}

MAIN = """
import os, signal, sys, time
print("main", *sys.argv[1:], flush=True)
if sys.argv[1:] == ["wait"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    time.sleep(30)
"""


def project(folder: Path) -> Path:
    """A project with our `run`, no requirements and a command line that says what it was told."""
    root = folder / "a project"
    (root / "ops").mkdir(parents=True)
    (root / "requirements").mkdir()
    shutil.copy(ROOT / "run", root / "run")
    (root / "ops" / "__init__.py").write_text("")
    (root / "ops" / "main.py").write_text(MAIN)
    (root / "ops" / "warm.py").write_text("open('warmed', 'a').write('x')")
    for name in ("run", "test", "real"):
        (root / "requirements" / f"{name}.txt").write_text("# none\n")
    return root


def run(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "run"), *arguments], capture_output=True, text=True, check=False,
        cwd=root.parent, env={**os.environ, **environment},
    )  # fmt: skip


def test_help_needs_no_environment(tmp_path: Path) -> None:
    root = project(tmp_path)
    for arguments in ((), ("--help",), ("help",)):
        done = run(root, *arguments)
        assert done.returncode == 0
        assert "./run demo" in done.stdout
    done = run(root, "nonsense")
    assert done.returncode == 2
    assert not (root / ".venv").exists()


def quick_python(folder: Path) -> str:
    """A Python whose `-m venv` leaves out pip, and puts one there that installs nothing: making
    an environment then takes a moment, and all that `run` decides is as ever."""
    script = folder / "quick-python"
    script.write_text(
        f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"
{sys.executable} -m venv --without-pip "$3" || exit 1
for site in "$3"/lib/python3*/site-packages; do
    mkdir "$site/pip" && echo pass > "$site/pip/__main__.py"
done
"""
    )
    script.chmod(0o755)
    return str(script)


def test_the_environment_is_made_once_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path)
    monkeypatch.setenv("FIRECELL_PYTHON", quick_python(tmp_path))
    done = run(root, "firecell", "a b", "c")
    assert (done.returncode, done.stdout) == (0, "main a b c\n"), done.stderr
    assert "making the environment" in done.stderr
    assert run(root, "demo", "x").stdout == "main demo x\n"
    again = run(root, "firecell")
    assert (again.stdout, again.stderr) == ("main\n", "")
    assert (root / "warmed").read_text() == "x"
    (tmp_path / "link").symlink_to(root / "run")
    linked = subprocess.run([tmp_path / "link", "firecell", "l"], capture_output=True, text=True,
                            check=True)  # fmt: skip
    assert linked.stdout == "main l\n"
    # An install that was interrupted, a change of the requirements, a Python that went away:
    (root / ".venv" / "unfinished").touch()
    assert "making the environment" in run(root, "firecell").stderr
    (root / "requirements" / "run.txt").write_text("# other\n")
    assert "making the environment" in run(root, "firecell").stderr
    (root / ".venv" / "bin" / "python").unlink()
    assert "making the environment" in run(root, "firecell").stderr
    assert run(root, "firecell").stderr == ""


@pytest.mark.slow
def test_two_at_once_make_one_environment_and_signals_arrive(tmp_path: Path) -> None:
    root = project(tmp_path)
    both = [
        subprocess.Popen([root / "run", "firecell", "wait"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "main wait\n"
    time.sleep(0.3)
    said = ""
    for process in both:
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=10)[1]
        assert process.returncode == 7, "exec: the signal reached Python itself"
    assert said.count("making the environment") == 1
    assert (root / "warmed").read_text() == "x"


@pytest.mark.slow
def test_a_requirement_without_its_hash_is_refused(tmp_path: Path) -> None:
    root = project(tmp_path)
    wheel = tmp_path / "wheels"
    wheel.mkdir()
    _make_wheel(wheel / "small_thing-1.0-py3-none-any.whl")
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel)}
    (root / "requirements" / "run.txt").write_text(f"small-thing==1.0 --hash=sha256:{'0' * 64}\n")
    done = run(root, "firecell", **environment)
    assert done.returncode == 1
    assert "requirements/run.txt failed" in done.stderr
    assert not (root / ".venv" / "run.stamp").exists()


def _make_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("small_thing.py", "")
        info = "small_thing-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-thing\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_what_the_system_lacks_is_said_as_a_line_to_type(tmp_path: Path) -> None:
    root = project(tmp_path)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (fakes / name).write_text("#!/bin/sh\nexit 1\n")
        (fakes / name).chmod(0o755)
    path = f"{fakes}{os.pathsep}{os.environ['PATH']}"
    done = run(root, "firecell", PATH=path)
    assert done.returncode == 1
    assert "sudo apt-get install python3 python3-venv" in done.stderr
    # A Python without venv, as Debian ships it:
    (fakes / "python3").write_text(
        f'#!/bin/sh\ncase "$*" in *venv*|*ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    done = run(root, "firecell", PATH=path)
    assert done.returncode == 1
    assert "sudo apt-get install python3-venv" in done.stderr
    assert not (root / ".venv").exists()


def test_scripts_are_executable_and_sound() -> None:
    for script, shell in ((ROOT / "run", "sh"), (ROOT / ".ci" / "run", "bash")):
        assert os.access(script, os.X_OK)
        assert subprocess.run([shell, "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("name", ["run", "test", "real"])
def test_requirements_are_pinned_hashed_and_name_no_host(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text and "index" not in text
    lines = re.sub(r"\\\n", " ", text).splitlines()
    for line in lines:
        assert re.match(
            r"[a-z0-9-]+==[0-9][^ ]* ( *; [^\\]*?)?( *--hash=sha256:[0-9a-f]{64})+ *$", line
        ), line[:80]
    assert len(lines) > 20


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE))


def test_the_test_requirements_hold_the_others() -> None:
    runtime, test = pins("run"), pins("test")
    assert runtime.items() <= test.items()
    assert {"pytest", "hypothesis", "ruff", "mypy", "hatchling"} <= test.keys() - runtime.keys()
    real = pins("real")
    assert test.items() <= real.items()
    clients = {"confluent-kafka", "faust-streaming", "aiokafka", "cramjam", "happybase", "redis"}
    assert clients <= real.keys() - test.keys()
    assert real["faust-streaming"] == "0.15.3"


def test_every_dependency_is_pinned_and_click_suits_faust() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = pins("run")
    for requirement in document["dependencies"]:
        name = re.match(r"[A-Za-z0-9_-]+", requirement)
        assert name is not None and name[0] in runtime, requirement
    assert tuple(map(int, runtime["click"].split("."))) < (8, 4)
    assert "Private :: Do Not Upload" in document["classifiers"]
    assert set(document["optional-dependencies"]) == {"kafka", "hbase", "redis", "all", "test"}


def test_the_wheel_holds_our_packages_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs the test requirements: ./run test")
    source = tmp_path / "source"
    source.mkdir()
    for name in [*PACKAGES, "tests", "docs", "requirements"]:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
        else:
            (source / name).write_text("not yet\n")
    (source / "stray.py").write_text("")
    (source / "data").mkdir()
    (source / "data" / "secret").write_text("")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
                   cwd=source, check=True, capture_output=True)  # fmt: skip
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
        metadata = wheel.read("firecell-0.1.0.dist-info/METADATA").decode()
        scripts = wheel.read("firecell-0.1.0.dist-info/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, "firecell-0.1.0.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]
    assert "firecell-0.1.0.dist-info/licenses/LICENSE" in names
    assert "Classifier: Private :: Do Not Upload" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "firecell = ops.main:main" in scripts
    for package in PACKAGES:
        folder = ROOT / package
        ours = {f"{package}/{path.relative_to(folder)}" for path in folder.rglob("*.py")}
        assert {n for n in names if n.startswith(package + "/") and n.endswith(".py")} == ours
