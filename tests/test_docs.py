"""The documents say what is there, all of it, and nothing else.

Every command, option, setting, metric, route, error and dependency is documented, and what is
documented exists; links, file names and names of tests resolve; the shell sessions of README and
docs/http.md give what they say. `python -m tests.documents` writes the made parts anew.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from bench import figures
from cells.maintenance import Maintenance
from cells.settings_schema import CELL_FIELDS, FIELDS, SECTIONS
from engine.events import KINDS
from tests import documents
from tests.chaos.up import running
from tests.conftest import ROOT
from tests.documents import DOCUMENTS, GENERATED, blocks, commands, first_cells, read, section
from tests.worlds import World
from topics.http_routes import ROUTES
from topics.metrics import HttpMetrics

PROSE_COLUMNS_MAX = 145  # about 130 is meant; a link may stand out
INTERNAL_VARIABLES = {"FIRECELL_PARENT_PID", "FIRECELL_CI_MARK"}  # between our own processes
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|py|toml|json))`")
IN_CODE = re.compile(r"`([\w./-]+\.py)(?:(::?)([\w.]+))?`")


def code_of(name: str) -> str:
    """All code of a document: its fenced blocks and its spans."""
    text = read(name)
    return "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"```.*?```", text, re.S)])


def names_in(path: Path) -> set[str]:
    """Functions, classes and `Class.method`s of a Python file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{m.name}" for m in node.body if hasattr(m, "name")}
    return found


@cache
def product_text() -> str:
    """The text of everything that runs."""
    folders = ("engine", "topics", "cells", "ops", "bench")
    files = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "run"])


# --- made parts, commands, settings ---------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_made_parts_are_as_the_code_says(name: str) -> None:
    document, render = GENERATED[name]
    same = documents.generated(read(document), name) == render().strip()
    assert same, f"{document}: type `python -m tests.documents`"


def test_readme_has_the_figures_of_the_result_files() -> None:
    same = figures.fill(read("README.md"), figures.render()) == read("README.md")
    assert same, "README.md: type `python -m bench.figures`"


def test_every_command_has_its_reference_and_its_exit_codes() -> None:
    text = read("docs/cli.md")
    assert re.findall(r"^### (.+)$", section(text, "Reference"), re.M) == list(commands())
    codes, by_command = section(text, "Exit codes").split("What each command makes")
    assert set(first_cells(by_command)) == set(commands())
    from engine import errors

    known = {str(kind.exit_code) for kind in documents.error_classes()}
    assert {"0", str(errors.FirecellError.exit_code), "130"} | known == set(first_cells(codes))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_options_that_are_named_exist(name: str) -> None:
    code = code_of(name)
    for words in re.findall(r"(?:^|run )firecell ([a-z]+(?: [a-z]+)?)", code, re.M):
        first, both = words.split()[0], words
        starts = {known.split()[0] for known in commands()}
        assert first in starts, f"{name}: firecell {words}"
        groups = {known.split()[0] for known in commands() if " " in known}
        if first in groups and " " in both:
            assert both in commands(), f"{name}: firecell {words}"
    if name == "CONTRIBUTING.md":  # it names other programs' options
        return
    known_options = {o for c in commands().values() for p in documents.options(c) for o in p.opts}
    known_options |= {"--help", "--version", "--quick", "--data-binary", "--max-time"}
    if name == "docs/deploy.md":  # of java, and of HBase's Thrift server
        known_options |= {"--add-opens", "--framed", "--compact"}
    unknown = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", code)) - known_options
    assert not unknown, f"{name}: {unknown}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_that_are_named_exist(name: str) -> None:
    settings = {*FIELDS, *(f"cells.NAME.{key}" for key in CELL_FIELDS)}
    pattern = rf"`((?:{'|'.join(SECTIONS)})\.[a-z.A-Z]+)`"
    for setting in re.findall(pattern, read(name)):
        if setting.endswith((".md", ".py")) or setting.startswith("cells.worker"):
            continue
        if name == "docs/deploy.md" and setting.startswith("hbase."):
            continue  # HBase's own settings look like ours
        assert setting in settings, f"{name}: {setting}"
    variables = {documents.variable(setting) for setting in settings}
    for variable in re.findall(r"FIRECELL_[A-Z0-9_]*[A-Z0-9]", read(name)):
        if "__" in variable and "SECTION" not in variable:
            assert re.sub(r"CELLS__C1", "CELLS__NAME", variable) in variables, variable


def test_variables_that_are_no_settings_are_all_told() -> None:
    rows = section(read("docs/configuration.md"), "Variables that are no settings")
    used = set(re.findall(r"FIRECELL_[A-Z]+(?:_[A-Z]+)*(?![A-Z_])", product_text()))
    used = {name for name in used if "__" not in name} - INTERNAL_VARIABLES
    assert set(first_cells(rows)) == used - {"FIRECELL_SECTION", "FIRECELL_HTTP", "FIRECELL_CELLS"}


# --- HTTP, metrics, errors ------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_routes_that_are_named_exist(name: str) -> None:
    patterns = [re.compile(re.sub(r"\{\w+\}", r"[^/]+", route.path)) for route in ROUTES]
    for method, path in re.findall(r"(?:(GET|PUT|POST) |\$URL)(/[\w/{}$.]+)", code_of(name)):
        found = [route for route, p in zip(ROUTES, patterns, strict=True) if p.fullmatch(path)]
        assert found, f"{name}: {path}"
        assert not method or method in {route.method for route in found}, f"{name}: {method} {path}"


def test_problem_types_that_are_named_exist() -> None:
    types = {f"urn:firecell:problem:{documents.problem_type(k)}" for k in documents.error_classes()}
    text = "".join(map(read, DOCUMENTS))
    assert set(re.findall(r"urn:firecell:problem:[a-z-]+", text)) == types


def test_every_type_of_event_is_told() -> None:
    rows = section(read("docs/http.md"), "One event: `POST /v1/events`")
    types = [kind.strip(" `") for cell in first_cells(rows) for kind in cell.split(",")]
    assert sorted(types) == sorted(KINDS)


def exposed(text: str) -> dict[str, str]:
    """Metric -> type of what a process exposes."""
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))


def told(*titles: str) -> dict[str, str]:
    """Metric -> type of what docs/metrics.md says below some headings."""
    text = "".join(section(read("docs/metrics.md"), title) for title in titles)
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.M))


def test_every_metric_of_a_cell_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    cell = world.open()
    beside = Maintenance(cell, world.settings)
    metrics = HttpMetrics("cell", "c1", "0", cell.runner.stats, lambda: cell.runner.latency)
    assert exposed(metrics.render().decode()) == told("Every process", "Cell")
    beside.close()
    cell.close()
    world.close()


def test_metrics_that_are_named_exist() -> None:
    known = told("Every process", "Gateway", "Cell")
    named = {m for name in DOCUMENTS for m in re.findall(r"`(firecell_\w+)", read(name))}
    assert named == known.keys()


# --- links, files, names --------------------------------------------------------------------------


def anchors(name: str) -> set[str]:
    """What a link may name in a document, as GitHub makes it."""
    heads = re.findall(r"^#+ (.+)$", documents.prose(read(name)), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", documents.prose(read(name))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (folder / path).resolve() if path else ROOT / name
        assert place.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(place.relative_to(ROOT).as_posix()), f"{name}: {target}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_functions_that_are_named_exist(name: str) -> None:
    text = read(name)
    for path, _, member in IN_CODE.findall(text):
        if "/" in path:
            assert (ROOT / path).is_file(), f"{name}: {path}"
            assert not member or member in names_in(ROOT / path), f"{name}: {path} has no {member}"
    for path in FILE.findall(text):
        made = path.startswith(("run/", "./data", ".cache/"))
        made |= path in ("firecell.toml", "directory.json")
        if not made and not path.startswith("application/"):
            near = ((ROOT / name).parent / path).exists()
            assert near or (ROOT / path).exists(), f"{name}: {path}"


def test_dotted_names_in_architecture_exist() -> None:
    for package, module, member in re.findall(
        r"`(engine|topics|cells|ops|bench)\.(\w+)\.(\w+)`", read("ARCHITECTURE.md")
    ):
        assert member in names_in(ROOT / package / f"{module}.py"), f"{package}.{module}.{member}"


def test_every_invariant_has_its_rule_its_code_and_its_tests() -> None:
    text = read("docs/invariants.md")
    heads = re.findall(r"^## (I\d+ .+)$", text, re.M)
    assert [head.split()[0] for head in heads] == [f"I{number}" for number in range(1, 13)]
    for head in heads:
        _, held, checked = re.split(r"\*\*(?:Held by|Checked by)\*\*", section(text, head))
        assert re.search(r"`[a-z]+/\w+\.py", held) or "that file" in held, head
        assert "::test_" in checked, head
    used = set(re.findall(r"\bI(\d+)\b", product_text())) - {"32", "64"}  # types of Thrift
    assert used <= {str(number) for number in range(1, 13)}


def test_glossary_has_one_meaning_per_noun() -> None:
    words = [w.strip() for cell in first_cells(read("docs/glossary.md")) for w in cell.split(",")]
    assert len(words) == len(set(words)) > 60


@pytest.mark.parametrize("name", DOCUMENTS)
def test_prose_is_narrow_and_names_no_machine(name: str) -> None:
    for number, line in enumerate(documents.prose(read(name)).splitlines(), 1):
        if not line.startswith("|") and name != "docs/cli.md":
            assert len(line) <= PROSE_COLUMNS_MAX, f"{name}: {number}: {len(line)} columns"
    machine = re.compile(r"(?<![\w.<>:/-])/(?:home|root|work|tmp|mnt|Users)/")
    assert not machine.search(read(name)), name


# --- dependencies ---------------------------------------------------------------------------------


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for name, one in project["optional-dependencies"].items() if name != "all"]
    chosen = [*project["dependencies"], *itertools.chain(*extras)]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in chosen}  # type: ignore[index]
    direct, brought = section(read("CONTRIBUTING.md"), "Dependencies").split("Brought along")
    assert set(first_cells(direct)) == names
    pinned = (ROOT / "requirements" / "real.txt").read_text(encoding="utf-8")
    pins = set(re.findall(r"^([a-z0-9-]+)==", pinned, re.M))
    told_as_brought = {w.strip(" `") for cell in first_cells(brought) for w in cell.split(",")}
    assert told_as_brought == pins - names


# --- the shell sessions ---------------------------------------------------------------------------

SESSIONS = ("README.md", "docs/http.md")
_STEP = re.compile(r"^```sh\n(.*?)^```\n(?:\s*^```(?:json|text)\n(.*?)^```)?", re.M | re.S)
_CUT = "--- the next block ---"


def steps(name: str) -> list[tuple[str, str]]:
    """(shell block, what it says it prints) from the block on that names the address."""
    found = _STEP.findall(read(name))
    first = next(n for n, (block, _) in enumerate(found) if block.startswith("URL="))
    return found[first:]


def alike(text: str) -> str:
    """The text with ids by order of appearance, and no times: what is the same on every run."""
    text = re.sub(r'("settled": ?)"v1-\d+-\d+"', r'\1"SETTLED"', text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    ids: dict[str, str] = {}
    return re.sub(r"\d{16,20}", lambda m: ids.setdefault(m[0], f"ID{len(ids)}"), text).strip()


def play(name: str, url: str, folder: Path) -> list[str]:
    """What each block of a session prints."""
    script = "".join(f"{block}\necho; echo '{_CUT}'\n" for block, _ in steps(name))
    script = script.replace("http://127.0.0.1:8080", url)
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split(_CUT)[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SESSIONS)
def test_the_session_gives_what_it_says(name: str, tmp_path: Path) -> None:
    config = tmp_path / "firecell.toml"
    config.write_text("[cells.c1]\n", encoding="utf-8")
    with running(tmp_path, config, 1) as up:
        printed = play(name, up.url, tmp_path)
        expected = [text for _, text in steps(name)]
        assert alike(_CUT.join(p.strip() for p in printed)) == alike(
            _CUT.join(e.strip() for e in expected)
        )
        assert exposed(up.get("/metrics").text) == told("Every process", "Gateway")
        assert exposed(up.client.get(f"{up.run_file('cell').url}/metrics").text) == told(
            "Every process", "Cell"
        )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_shell_blocks_parse(name: str) -> None:
    for block in blocks(read(name), "sh"):
        for shell in ("sh", "bash"):
            assert subprocess.run([shell, "-n", "-c", block], check=False).returncode == 0, block
