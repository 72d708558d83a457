"""Settings: TOML < environment `FIRECELL_SECTION__KEY` < flags, and where each value came from.

`load_settings` reads once, at start; the result is frozen and safe to share. A name that is no
setting is an error that suggests the nearest one, so a misspelled bound never goes unnoticed.
The names, their defaults and what they may be stand in `cells/settings_schema.py`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cells.settings_schema import CELL_FIELDS, CELL_NAME, DEFAULT_CELL, FIELDS, SECTIONS, Field
from engine.errors import BadInput, Misconfigured
from engine.limits import (
    CELLS_MAX,
    CONFIG_FILE_BYTES_MAX,
    SNAPSHOTS_PER_RETENTION,
    SNAPSHOTS_PER_RETENTION_MIN,
)
from topics.urls import CachePlace, EmbeddedPlace, FirehosePlace, StorePlace

DEFAULT_FILE = "firecell.toml"
_ENVIRONMENT = "FIRECELL_"


class Firehose(msgspec.Struct, frozen=True):
    """[firehose]: `place` is what `url` says; `node` None: leased."""

    url: str
    place: FirehosePlace
    partitions: int
    retention_ms: int
    node: int | None

    @property
    def folder(self) -> Path:
        """Where an embedded one lies; Misconfigured for any other."""
        if isinstance(self.place, EmbeddedPlace):
            return self.place.folder
        raise Misconfigured(f"[firehose] url = {self.url!r}: this needs an embedded: firehose")


class Data(msgspec.Struct, frozen=True):
    """[data]: run files, node state, logs."""

    folder: Path


class Http(msgspec.Struct, frozen=True):
    """[http]: where the gateway listens; port 0 takes a free one. `url`: how other gateways reach
    it; empty: where it listens."""

    host: str
    port: int
    url: str


class Snapshots(msgspec.Struct, frozen=True):
    """[snapshots]: where cells keep theirs, and how often one is taken; 0: never."""

    folder: Path
    every_ms: int


class HBaseHelper(msgspec.Struct, frozen=True):
    """[hbase]: the Java helper's argument file."""

    helper: Path


class TokensFile(msgspec.Struct, frozen=True):
    """[tokens]: the file of token hashes."""

    file: Path


class CellSettings(msgspec.Struct, frozen=True):
    """[cells.NAME]: `place` and `cache_place` are what `store` and `cache` say. `folder` holds what
    the cell keeps on this machine: an embedded store, the graph's snapshot."""

    name: str
    store: str
    place: StorePlace
    folder: Path
    cache: str
    cache_place: CachePlace
    push_followers_max: int
    share: float
    host: str
    port: int


class Origin(NamedTuple):
    """Where a value came from: `default`, `environment`, `flag`, or the file's path."""

    value: object
    source: str


class Settings(msgspec.Struct, frozen=True):
    """All of them. `origins` maps every dotted name to its value as written and its source."""

    firehose: Firehose
    data: Data
    http: Http
    tokens: TokensFile
    snapshots: Snapshots
    hbase: HBaseHelper
    cells: dict[str, CellSettings]
    file: Path | None
    origins: dict[str, Origin]

    def cell(self, name: str) -> CellSettings:
        """One cell's; Misconfigured names those that there are."""
        if name not in self.cells:
            known = ", ".join(sorted(self.cells))
            raise Misconfigured(f"no cell {name!r} in the configuration; there are: {known}")
        return self.cells[name]


class _Value(NamedTuple):
    """A value before it is checked: as written, where, and what its paths are relative to."""

    value: object
    source: str
    base: Path


def load_settings(
    file: Path | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Read, merge and check.

    file         the TOML file; None: FIRECELL_CONFIG, else `firecell.toml` in `folder` if it is
                 there, else defaults
    flags        dotted name -> value, such as {"http.port": 0}; None values are passed over
    environment  os.environ unless given
    folder       the working folder: paths of flags are relative to it, all others to the file's

    Misconfigured names the setting, its value and its source.
    """
    environment = os.environ if environment is None else environment
    folder = (Path.cwd() if folder is None else folder).absolute()
    file = _choose_file(file, environment, folder)
    base = folder if file is None else file.parent
    values: dict[str, _Value] = {}
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_environment(environment, base))
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _Value(value, "flag", folder)
    return _build(values, file, base)


def _choose_file(file: Path | None, environment: Mapping[str, str], folder: Path) -> Path | None:
    from_environment = environment.get("FIRECELL_CONFIG", "")
    named = file or (Path(from_environment) if from_environment else None)
    if named is None:
        found = folder / DEFAULT_FILE
        return found if found.exists() else None
    named = folder / named
    if not named.is_file():
        raise Misconfigured(f"{named}: no such file; `firecell init` writes a commented one")
    return named


def _from_file(file: Path) -> dict[str, _Value]:
    with file.open("rb") as opened:
        text = opened.read(CONFIG_FILE_BYTES_MAX + 1)
    if len(text) > CONFIG_FILE_BYTES_MAX:
        raise Misconfigured(f"{file}: larger than {CONFIG_FILE_BYTES_MAX} bytes")
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{file}: no TOML: {error}") from None
    flat: dict[str, object] = {}
    _flatten(document, "", flat)
    return {name: _Value(value, str(file), file.parent) for name, value in flat.items()}


def _flatten(table: Mapping[str, object], prefix: str, flat: dict[str, object]) -> None:
    """Dotted names. An empty [cells.NAME] still makes a cell: it stands as `cells.NAME`."""
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and (value or name in SECTIONS):
            _flatten(value, name + ".", flat)
            if prefix == "cells.":
                flat.setdefault(name, None)
        else:
            flat[name] = None if value == {} and prefix == "cells." else value


def _from_environment(environment: Mapping[str, str], base: Path) -> dict[str, _Value]:
    """`FIRECELL_CELLS__C1__STORE` is `cells.c1.store`; names without `__` are other programs'
    business (FIRECELL_CONFIG, FIRECELL_URL, FIRECELL_TOKEN)."""
    values = {}
    for variable in sorted(environment):
        path = variable.removeprefix(_ENVIRONMENT)
        if variable != path and "__" in path:
            name = path.lower().replace("__", ".")
            values[name] = _Value(environment[variable], f"environment {variable}", base)
    return values


def _build(values: dict[str, _Value], file: Path | None, base: Path) -> Settings:
    names = _cell_names(values)
    _refuse_unknown(values)
    read = _Reader(values, base)
    data = Data(read.take("data.folder"))
    # Relative as written, so that `config show` reads well; a flag's is relative to elsewhere.
    given = read.origins["data.folder"]
    read.data = data.folder if given.source == "flag" else given.value
    firehose = Firehose(
        url=read.text("firehose.url"),
        place=read.take("firehose.url"),
        partitions=read.take("firehose.partitions"),
        retention_ms=read.take("firehose.retention"),
        node=read.take("firehose.node"),
    )
    return Settings(
        firehose=firehose,
        data=data,
        http=Http(read.take("http.host"), read.take("http.port"), read.take("http.url")),
        tokens=TokensFile(read.take("tokens.file")),
        snapshots=_read_snapshots(read, firehose.retention_ms),
        hbase=HBaseHelper(read.take("hbase.helper")),
        cells=_read_cells(read, names, firehose.place, data.folder),
        file=file,
        origins=read.origins,
    )


def _read_snapshots(read: _Reader, retention_ms: int) -> Snapshots:
    """Rarer than a quarter of the retention, the newest snapshot might not reach the firehose."""
    every_ms = read.take("snapshots.every")
    if every_ms is None:
        every_ms = retention_ms // SNAPSHOTS_PER_RETENTION
    elif every_ms * SNAPSHOTS_PER_RETENTION_MIN >= retention_ms:
        raise Misconfigured(
            f"snapshots.every: {read.text('snapshots.every')} is not less than a quarter of"
            " firehose.retention: a rebuild could find a hole"
        )
    return Snapshots(read.take("snapshots.folder"), every_ms)


def _read_cells(
    read: _Reader, names: list[str], firehose: FirehosePlace, data: Path
) -> dict[str, CellSettings]:
    cells = {}
    users: dict[object, str] = {firehose: "the firehose"}
    for name in names:
        prefix = f"cells.{name}."
        for refused in ("group", "keep.inbox", "keep.posts"):
            read.take(prefix + refused)
        place = read.take(prefix + "store")
        cell = CellSettings(
            name=name,
            store=read.text(prefix + "store"),
            place=place,
            folder=place.folder if isinstance(place, EmbeddedPlace) else data / name,
            cache=read.text(prefix + "cache"),
            cache_place=read.take(prefix + "cache"),
            push_followers_max=read.take(prefix + "push_followers_max"),
            share=read.take(prefix + "share"),
            host=read.take(prefix + "host"),
            port=read.take(prefix + "port"),
        )
        for used in {place, EmbeddedPlace(cell.folder)}:
            other = users.setdefault(used, f"cell {name!r}")
            if other != f"cell {name!r}":
                what = used.folder if isinstance(used, EmbeddedPlace) else cell.store
                raise Misconfigured(f"{prefix}store: {what} is already used by {other}")
        cells[name] = cell
    return cells


class _Reader:
    """Takes settings out of the merged values, and notes where each came from."""

    def __init__(self, values: dict[str, _Value], base: Path) -> None:
        self.values = values
        self.base = base
        self.data: object = ""
        self.origins: dict[str, Origin] = {}

    def text(self, name: str) -> str:
        """The setting as it is written."""
        return str(self._value(name)[0].value)

    def take(self, name: str) -> Any:
        """The setting, checked and converted. Misconfigured names it and its source."""
        given, field = self._value(name)
        self.origins[name] = Origin(given.value, given.source)
        try:
            return field.parse(given.value, name, given.base)
        except BadInput as error:
            raise Misconfigured(f"{error.message} (from {given.source})") from None

    def _value(self, name: str) -> tuple[_Value, Field]:
        field, cell = _field(name)
        if name in self.values:
            return self.values[name], field
        default = field.default
        if isinstance(default, str):
            default = default.replace("{data}", str(self.data)).replace("{name}", cell)
        return _Value(default, "default", self.base), field


def _field(name: str) -> tuple[Field, str]:
    if name in FIELDS:
        return FIELDS[name], ""
    _, cell, key = name.split(".", 2)
    return CELL_FIELDS[key], cell


def _cell_names(values: dict[str, _Value]) -> list[str]:
    names = sorted({name.split(".")[1] for name in values if name.startswith("cells.")})
    for name in names:
        if not CELL_NAME.fullmatch(name):
            raise Misconfigured(
                f"cells.{name}: a cell's name is 1 to 32 of a-z 0-9 _ -, and begins with none"
                " of the last two"
            )
    if len(names) > CELLS_MAX:
        raise Misconfigured(f"cells: {len(names)} of them, at most {CELLS_MAX}")
    return names or [DEFAULT_CELL]


def _refuse_unknown(values: dict[str, _Value]) -> None:
    for name, given in values.items():
        section, _, rest = name.partition(".")
        cell, _, key = rest.partition(".")
        if name in FIELDS or (section == "cells" and key in CELL_FIELDS):
            continue
        if section == "cells" and cell and not key:
            if given.value is None:
                continue
            raise Misconfigured(f"{name}: a cell is a table, [{name}] (from {given.source})")
        table = f"cells.{cell or DEFAULT_CELL}"
        known = [*FIELDS, *SECTIONS, table, *(f"{table}.{key}" for key in CELL_FIELDS)]
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"sections are {', '.join(SECTIONS)}"
        raise Misconfigured(f"unknown setting {name!r} (from {given.source}); {hint}")
