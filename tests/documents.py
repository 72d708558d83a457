"""The documents as the tests see them, and the parts of them that are made from the code.

`python -m tests.documents` writes those parts anew; `tests/test_docs.py` fails while they differ.
They stand between `<!-- begin NAME ... -->` and `<!-- end NAME -->`. Only reads the working tree.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from cells.settings_schema import CELL_FIELDS, FIELDS
from engine import errors, limits
from engine.errors import FirecellError
from ops import bench_
from ops.app import build_app
from topics.http_routes import ROUTES, Route

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
)
BENCHES = ("demo", *(f"bench {name}" for name in bench_.NAMES))  # programs of their own
_SHARED_BY = 4  # an option that so many commands have is told once
_TYPES = {"integer": "N", "integer range": "N", "float": "X", "path": "FILE"}
_PYTHON_TYPES = {int: "N", float: "X", Path: "FILE"}  # where typer no longer stands on click
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def read(name: str) -> str:
    """A document's text, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [body for found, body in _FENCE.findall(text) if found == language]


def prose(text: str) -> str:
    """The text without fenced blocks and comments."""
    return _COMMENT.sub("", _FENCE.sub("", text))


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its own or a higher level."""
    match = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert match, f"no heading {title!r}"
    rest = text[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def first_cells(text: str) -> list[str]:
    """The first cell of every row of the tables, without its back quotes; not the head."""
    rows = re.findall(r"^\| (.+?) \|.*$", text, re.MULTILINE)
    heads = re.findall(r"^\| (.+?) \|.*\n\| ?-", text, re.MULTILINE)
    return [row.strip("`") for row in rows if row not in heads and not row.startswith("--")]


# --- commands -------------------------------------------------------------------------------------


@cache
def commands() -> dict[str, Any]:
    """Every command that a person can type, by its words -> its click command."""
    found: dict[str, Any] = {}
    for words, command in _walk((), typer.main.get_command(build_app())):
        name = " ".join(words)
        found[name] = _own_program(name) if name in BENCHES else command
    return found


def _walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
        return
    if command.invoke_without_command:
        yield words, command
    for name, child in below.items():
        yield from _walk((*words, name), child)


def _own_program(name: str) -> Any:
    module = importlib.import_module("bench." + name.split()[-1])
    return typer.main.get_command(module.app)


def options(command: Any) -> list[Any]:
    """A command's options, `--help` left out."""
    return [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]


def arguments(command: Any) -> list[Any]:
    """A command's arguments."""
    return [p for p in command.params if p.param_type_name == "argument"]


def cli() -> str:
    """Each command: its help, its options, its examples."""
    return "\n\n".join(_command(name, command) for name, command in commands().items())


def _command(name: str, command: Any) -> str:
    text, _, examples = (command.help or "").partition("\b\n")
    usage = ["firecell", name, *(_argument(p) for p in arguments(command)), "[OPTIONS]"]
    lines = [f"### {name}", "", f"`{' '.join(usage)}`", "", _joined(text), ""]
    rows = [(f"`{_argument(p)}`", p.help) for p in arguments(command)]
    shared = [_option(p) for p in options(command) if (p.name, p.help) in _shared()]
    others = [p for p in options(command) if (p.name, p.help) not in _shared()]
    rows += [(f"`{_option(p)}`", _meaning(p)) for p in others]
    if shared:
        rows.append((", ".join(f"`{option}`" for option in shared), "[as everywhere](#commands)"))
    if rows:
        lines += ["| | |", "| --- | --- |", *(f"| {left} | {right} |" for left, right in rows), ""]
    shown = [line[2:] for line in examples.splitlines() if line.startswith("  ")]
    if shown:
        lines += ["```text", *shown, "```"]
    return "\n".join(lines).rstrip()


@cache
def _shared() -> frozenset[tuple[str, str]]:
    """(name, help) of the options that most commands share."""
    every = [(p.name, p.help) for command in commands().values() for p in options(command)]
    return frozenset(option for option in every if every.count(option) >= _SHARED_BY)


def _joined(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _argument(parameter: Any) -> str:
    name = str(parameter.name).rstrip("_").upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(parameter.opts)
    if parameter.is_flag:
        return names
    return f"{names} {parameter.metavar or _kind(parameter)}"


def _kind(parameter: Any) -> str:
    if hasattr(parameter, "type"):
        return _TYPES.get(parameter.type.name, "TEXT")
    return _PYTHON_TYPES.get(parameter.type_descriptor.annotation, "TEXT")


def _meaning(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    default = parameter.default
    plain = isinstance(default, int | float | str) and not isinstance(default, bool)
    if parameter.required:
        text += " Required."
    elif plain and default != "":
        text += f" Default: {default}."
    return text


# --- settings -------------------------------------------------------------------------------------


def settings() -> str:
    """Each setting, its default, the variable that sets it, and what it means."""
    lines = ["| setting | default | environment | what |", "| --- | --- | --- | --- |"]
    cells = {f"cells.NAME.{key}": field for key, field in CELL_FIELDS.items() if key != "group"}
    for name, field in {**FIELDS, **cells}.items():
        default = str(field.default).replace("{data}", "./data").replace("{name}", "NAME")
        lines.append(f"| `{name}` | `{default}` | `{variable(name)}` | {field.comment} |")
    return "\n".join(lines)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "FIRECELL_" + name.upper().replace(".", "__")


# --- HTTP -----------------------------------------------------------------------------------------


def routes() -> str:
    """Each route: who has it, what scope it needs, what it answers."""
    lines = ["| route | what | on | scope | answers |", "| --- | --- | --- | --- | --- |"]
    lines += [_route(route) for route in ROUTES]
    return "\n".join(lines)


def _route(route: Route) -> str:
    answers = [str(status) for status in sorted((*route.answers, *route.problems))]
    cells = (
        f"`{route.method} {route.path}`",
        route.about,
        ", ".join(route.roles),
        route.scope or "-",
        " ".join(answers),
    )
    return f"| {' | '.join(cells)} |"


def parameters() -> str:
    """Each query parameter of each route."""
    lines = ["| route | parameter | what | may be |", "| --- | --- | --- | --- |"]
    for route in ROUTES:
        for parameter in route.parameters:
            about = parameter.about.replace("|", "\\|")
            may_be = _schema(dict(parameter.schema))
            lines.append(f"| `{route.path}` | `{parameter.name}` | {about} | {may_be} |")
    return "\n".join(lines)


def _schema(schema: dict[str, Any]) -> str:
    if schema["type"] == "integer":
        return f"{schema['minimum']} to {schema['maximum']}; else {schema['default']}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "maxLength" in schema:
        return f"text of at most {schema['maxLength']} characters"
    return "text"


def error_classes() -> list[type[FirecellError]]:
    """The tree of errors without its root, as it stands in the file."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [k for k in kinds if issubclass(k, FirecellError) and k is not FirecellError]


def problem_type(kind: type[FirecellError]) -> str:
    """The last part of a problem's `type`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def problems() -> str:
    """Each class of errors: its problem type, status and exit code."""
    lines = ["| error | problem type | status | exit code | what |", "| --- " * 5 + "|"]
    for kind in error_classes():
        what = (kind.__doc__ or "").splitlines()[0]
        names = f"`{kind.__name__}` | `urn:firecell:problem:{problem_type(kind)}`"
        lines.append(f"| {names} | {kind.status} | {kind.exit_code} | {what} |")
    return "\n".join(lines)


_LIMITS = {
    "EVENT_BYTES_MAX": "bytes of one event",
    "BATCH_BYTES_MAX": "bytes of one NDJSON body",
    "BATCH_EVENTS_MAX": "lines of one NDJSON body",
    "TEXT_BYTES_MAX": "bytes of a text",
    "TAGS_MAX": "tags of a post",
    "TAG_CHARACTERS_MAX": "characters of a tag",
    "MEDIA_MAX": "media of a post",
    "MEDIA_BYTES_MAX": "bytes of one of them",
    "MENTIONS_MAX": "mentions of a post",
    "ID_AHEAD_MS_MAX": "ms that a post's own id may be ahead of the clock",
    "ID_COUNT_MAX": "ids of one `GET /v1/ids`",
    "PAGE_POSTS_MAX": "posts of a page",
    "PAGE_SCAN_KEYS_MAX": "inbox keys looked at for one page; then it is short",
    "FOLLOWERS_PAGE_MAX": "users of a page",
    "UNREAD_MAX": "`unread` is counted up to this",
    "BACKFILL_POSTS_MAX": "older posts that a follow brings",
    "BACKFILL_AGE_MS_MAX": "ms that they may be old",
    "SETTLE_MARGIN_MS": "ms that `settled` stays behind",
    "GAPS_IN_PAGE_MAX": "gaps told in a page",
    "AFTER_WAIT_MS_MAX": "ms that `wait_ms` may be",
    "AFTER_WAITERS_MAX": "requests that wait with `after` at once, of a cell",
    "HTTP_HEADER_BYTES_MAX": "bytes of a request's headers",
    "HTTP_CONNECTIONS_MAX": "connections of a process",
    "CONNECTIONS_PER_TOKEN_MAX": "requests of one token at once, of a process",
    "FILTER_AUTHORS_MAX": "authors of a stream's filter",
    "STREAM_UNACKED_MAX": "offsets of a partition delivered ahead of the acknowledged one",
    "GROUP_MEMBERS_MAX": "connections of one group",
    "GROUPS_MAX": "groups with members",
    "PUBLISH_QUEUE_ENTRIES_MAX": "events that wait for the synced commit; then 503",
}


def limits_table() -> str:
    """The bounds that a caller can meet."""
    lines = ["| bound | value | of what |", "| --- | --- | --- |"]
    for name, what in _LIMITS.items():
        lines.append(f"| `{name}` | {getattr(limits, name):,} | {what} |")
    return "\n".join(lines)


# --- the made parts -------------------------------------------------------------------------------

GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "commands": ("docs/cli.md", cli),
    "settings": ("docs/configuration.md", settings),
    "routes": ("docs/http.md", routes),
    "parameters": ("docs/http.md", parameters),
    "problems": ("docs/http.md", problems),
    "limits": ("docs/http.md", limits_table),
}


def generated(text: str, name: str) -> str:
    """What stands between the marks of a made part."""
    found = _marks(name).search(text)
    assert found, f"no `<!-- begin {name} ... -->` with its end"
    return found[2].strip()


def renew(name: str) -> bool:
    """Write one made part anew; whether it changed."""
    document, render = GENERATED[name]
    text = read(document)
    replaced = _marks(name).sub(lambda m: f"{m[1]}\n{render()}\n{m[3]}", text)
    (ROOT / document).write_text(replaced, encoding="utf-8")
    return replaced != text


def _marks(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- begin {name}\b[^>]*-->\n)(.*?)(<!-- end {name} -->)", re.DOTALL)


def main() -> int:
    """Write all made parts anew."""
    for name in GENERATED:
        if renew(name):
            typer.echo(f"{GENERATED[name][0]}: {name} changed", err=True)
    if find_spec("bench.figures") is not None:
        figures = importlib.import_module("bench.figures")
        return int(figures.main([]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
