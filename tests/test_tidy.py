"""The house rules that a machine can check (CONTRIBUTING.md says why each is there).

By AST over the five packages: import direction, docstrings, sizes, banned calls, bounds in one
file. By text over every file of the project: columns, machine paths, names of registries' hosts.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PRODUCT = ("engine", "topics", "cells", "ops")
PACKAGES = (*PRODUCT, "bench")
MAY_IMPORT = {
    "engine": {"engine"},
    "topics": {"engine", "topics"},
    "cells": {"engine", "topics", "cells"},
    "ops": {"engine", "topics", "cells", "ops"},
    "bench": {"engine", "topics", "cells", "ops", "bench"},
}
OURS = {*PACKAGES, "tests"}
LIMITS = tuple(ROOT / "engine" / name for name in ("limits.py", "limits_stack.py"))
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
COLUMNS_MAX = 100

# DESIGN 5: engine has no I/O, clock, thread, random, environment.
ENGINE_BANNED = {
    "asyncio", "glob", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile",
    "threading", "time", "urllib", "uuid", "lmdb", "rocksdict", "httpx", "starlette", "uvicorn",
}  # fmt: skip
EVERYWHERE_BANNED = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "imp"}
BANNED_CALLS = {"print", "eval", "exec", "breakpoint", "input", "hash", "__import__"}
# Of Kafka's admin client: while a broker starts or goes away each of these ends the process.
DEADLY_CALLS = {
    "alter_consumer_group_offsets", "list_consumer_group_offsets", "describe_consumer_groups",
}  # fmt: skip
FOREIGN_ERRORS = {
    "Exception", "BaseException", "ValueError", "TypeError", "KeyError", "IndexError", "OSError",
    "IOError", "RuntimeError", "NotImplementedError", "AssertionError", "TimeoutError",
}  # fmt: skip
# A large number that is no bound: what a format, a protocol or a computation is made of.
NO_BOUND = re.compile(
    r"_?([A-Z0-9]+_)*(MAGIC|MASK|MULTIPLIER|PRIME|SEED|STATUS|EPOCH_MS|SIGNATURE|HEAD)(_[A-Z0-9]+)*"
)
HTTP_STATUS = re.compile(r"_[A-Z_]+")


@cache
def files(*folders: str) -> list[Path]:
    """Python files of some folders."""
    found = []
    for folder in folders:
        found += [p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts]
    return sorted(found)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST | int) -> str:
    line = node if isinstance(node, int) else getattr(node, "lineno", 0)
    return f"{path.relative_to(ROOT)}:{line}"


def report(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(["", *problems]), pytrace=False)


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """(node, full name) of everything that a file imports, `if TYPE_CHECKING` included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node, "relative"
            elif node.module:
                yield node, node.module


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def text_files() -> Iterator[Path]:
    """Every text file of the project that is not generated or ignored."""
    skipped = {".git", ".venv", ".cache", "__pycache__", "data", "build", "dist", "node_modules",
               ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}  # fmt: skip
    kinds = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".sh", ".html", ""}
    for folder, names, leaves in os.walk(ROOT):
        at_root = Path(folder) == ROOT
        names[:] = [n for n in names if n not in skipped or (n == "data" and not at_root)]
        for leaf in set(leaves) - skipped:  # in a work tree .git is a file
            path = Path(folder) / leaf
            if path.suffix in kinds and path.stat().st_size < 1_000_000:
                yield path


def test_there_is_something_to_check() -> None:
    assert len(files(*PRODUCT)) > 20


def test_imports_go_one_way() -> None:
    problems = []
    for package in PACKAGES:
        for path in files(package):
            for node, name in imports(path):
                top = name.partition(".")[0]
                if name == "relative":
                    problems.append(f"{place(path, node)}: relative import; write the whole name")
                elif top in OURS and top not in MAY_IMPORT[package]:
                    problems.append(f"{place(path, node)}: {package} may not import {top}")
    report(problems)


def test_engine_is_pure() -> None:
    problems = []
    for path in files("engine"):
        for node, name in imports(path):
            if name.partition(".")[0] in ENGINE_BANNED:
                problems.append(f"{place(path, node)}: engine may not import {name}")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"):
                problems.append(f"{place(path, node)}: engine has no clock (.{node.attr})")
            if isinstance(node, ast.Name) and node.id == "open":
                problems.append(f"{place(path, node)}: engine opens no file")
            if isinstance(node, ast.Attribute) and ast.unparse(node).endswith("np.random"):
                problems.append(f"{place(path, node)}: engine has no random numbers")
    report(problems)


def test_nothing_banned_in_product_code() -> None:
    problems = []
    for path in files(*PRODUCT):
        for node, name in imports(path):
            if name.partition(".")[0] in EVERYWHERE_BANNED:
                problems.append(f"{place(path, node)}: {name} is banned")
        for node in ast.walk(tree(path)):
            problems += [f"{place(path, node)}: {what}" for what in banned(node)]
    report(problems)


def banned(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in BANNED_CALLS:
            yield f"{node.func.id}() is banned in product code"
    elif isinstance(node, ast.Attribute) and node.attr in DEADLY_CALLS:
        yield f"{node.attr} may end the process: see topics/kafka_groups.py"
    elif isinstance(node, ast.Assert):
        yield "assert vanishes under -O: use engine.errors.invariant"
    elif isinstance(node, ast.ExceptHandler) and node.type is None:
        yield "a bare except swallows even Ctrl-C: name what is expected"
    elif isinstance(node, ast.Raise) and node.exc is not None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(raised, ast.Name) and raised.id in FOREIGN_ERRORS:
            yield f"raise {raised.id}: errors come from engine/errors.py"


def test_no_unfinished_notes() -> None:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    problems = []
    for path in files(*PACKAGES, "tests"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if words.search(line):
                problems.append(f"{place(path, number)}: {line.strip()[:60]}")
    report(problems)


def test_every_module_says_what_it_is() -> None:
    report([f"{place(path, 1)}: no module docstring" for path in files(*PACKAGES, "tests")
            if path.read_text().strip() and not ast.get_docstring(tree(path))])  # fmt: skip


def test_packages_map_their_files() -> None:
    """Each package's docstring says what every file in it is for."""
    problems = []
    for package in PACKAGES:
        start = ROOT / package / "__init__.py"
        text = (ast.get_docstring(tree(start)) or "") if start.exists() else ""
        words = set(re.findall(r"\w+", text))
        missing = [path.stem for path in files(package) if path.stem not in words | {"__init__"}]
        if missing:
            problems.append(f"{package}/__init__.py does not map {', '.join(missing)}")
    report(problems)


def test_public_things_have_docstrings() -> None:
    problems = []
    for path in files(*PACKAGES):
        for name, node in public(tree(path)):
            if not ast.get_docstring(node):
                problems.append(f"{place(path, node)}: {name} has no docstring")
    report(problems)


_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(module: ast.Module | ast.ClassDef) -> Iterator[tuple[str, _Documented]]:
    """Public classes, functions, and methods of public classes. What overrides a documented
    method of ours or of a library (`@override`) needs no text of its own."""
    for node in module.body:
        if not isinstance(node, _Documented) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
        if decorators & {"override", "overload", "setter", "callback()"}:
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node)


def test_functions_are_short() -> None:
    problems = []
    for path in files(*PACKAGES, "tests"):
        for node in functions(path):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                problems.append(f"{place(path, node)}: {node.name} has {lines} lines")
    report(problems)


def test_files_are_short_and_narrow() -> None:
    problems = []
    for path in files(*PACKAGES, "tests"):
        lines = path.read_text().splitlines()
        if len(lines) > FILE_LINES_MAX:
            problems.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS_MAX:
                problems.append(f"{place(path, number)}: {len(line)} columns")
    report(problems)


def test_bounds_live_in_limits_only() -> None:
    """An upper-case name with a number above 99 is a bound or a default (I12), unless its name
    says that it is part of a format or a computation, it is an HTTP status, it is written as a
    power of two (the width of a field), or it is too large for anything but arithmetic."""
    problems = []
    for path in files(*PRODUCT):
        if path in LIMITS:
            continue
        for node in ast.walk(tree(path)):
            for name, value in constants(node):
                number = literal_number(value)
                if number is None or abs(number) <= 99 or NO_BOUND.fullmatch(name):
                    continue
                if HTTP_STATUS.fullmatch(name) and 200 <= number <= 599:
                    continue
                if name.startswith("_") and ("2**" in ast.unparse(value).replace(" ", "")
                                             or number > 2**32):  # fmt: skip
                    continue
                problems.append(f"{place(path, node)}: {name} = {number}: engine/limits.py")
    report(problems)


def constants(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of assignments to upper-case names, tuples taken apart."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        targets, value = [node.target], node.value
    elif isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    else:
        return
    for target in targets:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=False))
        else:
            pairs = [(target, value)]
        for one, its_value in pairs:
            if isinstance(one, ast.Name) and one.id.isupper():
                yield one.id, its_value


def literal_number(node: ast.expr) -> float | None:
    """The value of a number, or of arithmetic on numbers; None for anything else."""
    if isinstance(node, ast.Constant):
        kind = type(node.value)
        return node.value if kind in (int, float) else None  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp | ast.BinOp):
        parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
        if any(literal_number(part) is None for part in parts):
            return None
        return float(eval(compile(ast.Expression(node), "literal", "eval"), {}))
    return None


def test_limits_name_their_units_and_reasons() -> None:
    """Every limit is upper case, and used somewhere: a bound that nothing keeps is a lie."""
    names = [name for path in LIMITS for node in tree(path).body for name, _ in constants(node)]
    assert len(names) == len(set(names))
    texts = [path.read_text() for path in files(*PACKAGES, "tests") if path not in LIMITS]
    used = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", "\n".join(texts)))
    own = "\n".join(path.read_text() for path in LIMITS)
    problems = []
    for name in names:
        if name not in used and len(re.findall(rf"\b{name}\b", own)) < 2:
            problems.append(f"{name} is used nowhere")
    report(problems)


def test_no_machine_paths_and_no_hosts_of_registries() -> None:
    paths = re.compile(r"(?<![\w.:/-])/(wo" + r"rk|ro" + r"ot|ho" + r"me|Users|mnt|tm" + r"p)/")
    hosts = re.compile(
        r"py" + r"pi\.org|python" + r"hosted\.org|registry\.np" + r"mjs|crates" + r"\.io|"
        r"repo1?\.ma" + r"ven|deb\.deb" + r"ian\.org|proxy\.gol" + r"ang"
    )  # fmt: skip
    problems = []
    for path in text_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if paths.search(line) or hosts.search(line):
                problems.append(f"{place(path, number)}: {line.strip()[:70]}")
    report(problems)


def test_the_scripts_are_executable() -> None:
    for script in (ROOT / "run", ROOT / ".ci" / "run"):
        assert os.access(script, os.X_OK), script


def test_the_rules_find_what_they_forbid() -> None:
    """The checks above on code that breaks each rule: a check that finds nothing is no check."""
    bad = ast.parse(
        "print(1)\nassert 1\ntry: pass\nexcept: pass\nraise ValueError('x')\n"
        "admin.describe_consumer_groups(['g'])"
    )
    assert len([what for node in ast.walk(bad) for what in banned(node)]) == 5
    module = ast.parse("L = 60 * 1_000\nA, B = 5, 2**10\nlower = 500\nN = 'x'\nC: int = -100")
    found = [(name, literal_number(v)) for node in module.body for name, v in constants(node)]
    assert found == [("L", 60_000), ("A", 5), ("B", 1024), ("N", None), ("C", -100)]
    classes = ast.parse("class A:\n    def b(self): pass\n    def _c(self): pass\nclass _D: 1")
    assert [name for name, _ in public(classes)] == ["A", "b"]
