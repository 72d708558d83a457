"""The settings' names, defaults, meanings and what each may be. Pure: no file is read here.

A field's parser takes (value as written, dotted name, folder that paths are relative to) and
returns what `Settings` holds, or raises BadInput.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from engine.errors import BadInput
from engine.limits import (
    HTTP_PORT_DEFAULT,
    ID_NODE_MAX,
    PARTITIONS_DEFAULT,
    PARTITIONS_MAX,
    PORT_MAX,
    PUSH_FOLLOWERS_MAX_DEFAULT,
    RETENTION_MS_MIN,
    U32_MAX,
)
from engine.times import parse_duration_ms
from topics.urls import (
    CachePlace,
    FirehosePlace,
    StorePlace,
    is_gateway,
    parse_cache,
    parse_firehose,
    parse_store,
)

DEFAULT_CELL = "c1"
CELL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
SECTIONS = ("firehose", "data", "http", "tokens", "snapshots", "hbase", "cells")

_Place = TypeVar("_Place", FirehosePlace, StorePlace, CachePlace)
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


def _gateway_url(value: object, name: str, _base: Path) -> str:
    """Empty: where it listens."""
    if value == "auto":
        return ""
    if not isinstance(value, str) or not is_gateway(value):
        raise BadInput(f"{name}: {value!r} is not like http://host:8080", name)
    return value


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


def _every(value: object, name: str, base: Path) -> int | None:
    """None: as often as the retention asks for; 0: never."""
    text = _text(value, name, base)
    if text == "auto":
        return None
    return 0 if text in ("0", "never") else parse_duration_ms(text, name)


def _share(value: object, name: str, _base: Path) -> float:
    try:
        share = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        share = math.nan
    if isinstance(value, bool) or not (math.isfinite(share) and share > 0):
        raise BadInput(f"{name}: {value!r} is no number above 0", name)
    return share


def _firehose(value: object, name: str, base: Path) -> FirehosePlace:
    return _named(name, lambda: parse_firehose(_text(value, name, base), base))


def _store(value: object, name: str, base: Path) -> StorePlace:
    return _named(name, lambda: parse_store(_text(value, name, base), base))


def _cache(value: object, name: str, base: Path) -> CachePlace:
    return _named(name, lambda: parse_cache(_text(value, name, base)))


def _named(name: str, parse: Callable[[], _Place]) -> _Place:
    """A URL's place; what is wrong with it says which setting it is."""
    try:
        return parse()
    except BadInput as error:
        raise BadInput(f"{name}: {error.message.removeprefix(f'{name}: ')}", name) from None


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
        "embedded:{data}/firehose", _firehose, "or kafka://host:9092/topic"
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
    "http.url": Field(
        "auto", _gateway_url, "where other gateways reach it; auto: where it listens"
    ),
    "tokens.file": Field("{data}/tokens.jsonl", _path, "hashes of tokens, never the tokens"),
    "snapshots.folder": Field(
        "{data}/snapshots", _path, "of the cells; on the same disk they cost little at first"
    ),
    "snapshots.every": Field(
        "auto", _every, "under a quarter of the retention (auto: a fifth); or never"
    ),
    "hbase.helper": Field(
        "{data}/stack/helper.args", _path, "java @FILE makes tables; `firecell stack up` writes it"
    ),
}

CELL_FIELDS: dict[str, Field] = {
    "store": Field("embedded:{data}/{name}", _store, "or hbase://host:9090/name"),
    "cache": Field("memory:", _cache, "of posts; or redis://host:6379/0"),
    "push_followers_max": Field(
        PUSH_FOLLOWERS_MAX_DEFAULT,
        _whole(1, U32_MAX),
        "authors with more followers here are merged in by pages",
    ),
    "share": Field(1, _share, "of the users, relative to the other cells' shares"),
    "host": Field("127.0.0.1", _text, "where this cell listens; clients ask the gateway"),
    "port": Field(0, _whole(0, PORT_MAX), "0 takes a free port, named by run files and status"),
    "group": Field("", _no_group, "fed by a relay"),
    "keep.inbox": Field("forever", _forever, "how long inbox keys are kept"),
    "keep.posts": Field("forever", _forever, "how long posts are kept"),
}

_OFFERED = (
    "store", "cache", "push_followers_max", "share", "host", "port", "keep.inbox", "keep.posts",
)  # fmt: skip


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
