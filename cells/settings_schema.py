"""The settings' names, defaults, meanings and what each may be. Pure: no file is read here.

A field's parser takes (value as written, dotted name, folder that paths are relative to) and
returns what `Settings` holds, or raises BadInput.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engine.errors import BadInput
from engine.limits import (
    HTTP_PORT_DEFAULT,
    ID_NODE_MAX,
    PARTITIONS_DEFAULT,
    PARTITIONS_MAX,
    PORT_MAX,
    RETENTION_MS_MIN,
)
from engine.times import parse_duration_ms

DEFAULT_CELL = "c1"
CELL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
SECTIONS = ("firehose", "data", "http", "tokens", "cells")

_Parser = Callable[[object, str, Path], object]


class Field(NamedTuple):
    """One setting. In a text default `{data}` is the data folder and `{name}` the cell."""

    default: object
    parse: _Parser
    comment: str


def _text(value: object, name: str, _base: Path) -> str:
    if not isinstance(value, str) or not value:
        raise BadInput(f"{name}: {value!r} is no text", name)
    return value


def _path(value: object, name: str, base: Path) -> Path:
    if isinstance(value, Path):
        return base / value
    return base / Path(_text(value, name, base)).expanduser()


def _whole(low: int, high: int) -> _Parser:
    def parse(value: object, name: str, _base: Path) -> int:
        if isinstance(value, str) and re.fullmatch(r"\d{1,10}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadInput(f"{name}: {value!r} is no whole number from {low} to {high}", name)
        return value

    return parse


def _node(value: object, name: str, base: Path) -> int | None:
    if value in ("", "leased"):
        return None
    number = _whole(0, ID_NODE_MAX)(value, name, base)
    return number if isinstance(number, int) else None


def _duration(value: object, name: str, base: Path) -> int:
    ms = parse_duration_ms(_text(value, name, base), name)
    if ms < RETENTION_MS_MIN:
        raise BadInput(f"{name}: {value!r} is less than {RETENTION_MS_MIN // 1_000}s", name)
    return ms


def _share(value: object, name: str, _base: Path) -> float:
    try:
        share = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        share = math.nan
    if isinstance(value, bool) or not (math.isfinite(share) and share > 0):
        raise BadInput(f"{name}: {value!r} is no number above 0", name)
    return share


def _embedded(real: str, extra: str) -> _Parser:
    """`embedded:FOLDER` -> the folder; the real one's URL is refused by name."""

    def parse(value: object, name: str, base: Path) -> Path:
        text = _text(value, name, base)
        if text.startswith("embedded:") and len(text) > len("embedded:"):
            return _path(text.removeprefix("embedded:"), name, base)
        if text.startswith(real + "://"):
            raise BadInput(
                f"{name}: {real}:// comes with the [{extra}] parts; this version runs embedded:"
                f" only, so write embedded:FOLDER",
                name,
            )
        raise BadInput(f"{name}: {text!r} is no such URL; write embedded:FOLDER", name)

    return parse


def _cache(value: object, name: str, base: Path) -> str:
    text = _text(value, name, base)
    if text.startswith("redis://"):
        raise BadInput(
            f"{name}: redis:// comes with the [redis] part; this version runs embedded: only,"
            " so write memory:",
            name,
        )
    if text != "memory:":
        raise BadInput(f"{name}: {text!r} is no cache; write memory:", name)
    return text


def _no_group(value: object, name: str, base: Path) -> None:
    if value != "":
        raise BadInput(
            f"{name}: cell groups come with the relay; this version feeds every cell from the"
            " root firehose, so leave it out",
            name,
        )


def _forever(value: object, name: str, base: Path) -> None:
    if value != "forever":
        raise BadInput(f"{name}: this version keeps everything; write forever", name)


FIELDS: dict[str, Field] = {
    "firehose.url": Field(
        "embedded:{data}/firehose", _embedded("kafka", "kafka"), "where the events are kept"
    ),
    "firehose.partitions": Field(
        PARTITIONS_DEFAULT, _whole(1, PARTITIONS_MAX), "can never change once the firehose exists"
    ),
    "firehose.retention": Field(
        "7d", _duration, "how far back the firehose can be rewound: 90m, 12h, 7d"
    ),
    "firehose.node": Field("leased", _node, f"of post ids, 0 to {ID_NODE_MAX}; leased: a free one"),
    "data.folder": Field("./data", _path, "run files, node state, logs; relative to this file"),
    "http.host": Field("127.0.0.1", _text, "any but loopback needs tokens: firecell tokens create"),
    "http.port": Field(HTTP_PORT_DEFAULT, _whole(0, PORT_MAX), "0 takes a free port"),
    "tokens.file": Field("{data}/tokens.jsonl", _path, "hashes of tokens, never the tokens"),
}

CELL_FIELDS: dict[str, Field] = {
    "store": Field("embedded:{data}/{name}", _embedded("hbase", "hbase"), "posts and inboxes"),
    "cache": Field("memory:", _cache, "posts read lately"),
    "share": Field(1, _share, "of the users, relative to the other cells' shares"),
    "host": Field("127.0.0.1", _text, "where this cell listens; clients ask the gateway"),
    "port": Field(0, _whole(0, PORT_MAX), "0 takes a free port, named by run files and status"),
    "group": Field("", _no_group, "fed by a relay"),
    "keep.inbox": Field("forever", _forever, "how long inbox keys are kept"),
    "keep.posts": Field("forever", _forever, "how long posts are kept"),
}

_OFFERED = ("store", "cache", "share", "host", "port", "keep.inbox", "keep.posts")


def init_text() -> str:
    """A commented firecell.toml whose values equal the defaults."""
    lines = [
        "# Firecell. Every value here is the default: keep what you change, drop the rest.",
        "# Each can be set by the environment too: FIRECELL_HTTP__PORT=8081, and flags come last.",
    ]
    for section in SECTIONS[:-1]:
        lines += ["", f"[{section}]"]
        for name, field in FIELDS.items():
            if name.startswith(section + "."):
                lines.append(_line(name.removeprefix(section + "."), field, DEFAULT_CELL))
    lines += ["", "# One process and one store per cell; more cells use more cores.", "[cells.c1]"]
    lines += [_line(key, CELL_FIELDS[key], DEFAULT_CELL) for key in _OFFERED]
    return "\n".join(lines) + "\n"


def _line(key: str, field: Field, cell: str) -> str:
    value = field.default
    if isinstance(value, str):
        value = value.replace("{data}", "./data").replace("{name}", cell)
        return f'{key} = "{value}"'.ljust(36) + f"  # {field.comment}"
    return f"{key} = {value}".ljust(36) + f"  # {field.comment}"
