"""Stores, markers and caches by their places: the one file that knows every backend.

The real ones are imported only when a configuration names them, so nothing here needs their extras.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from types import ModuleType

from cells import rows
from cells.cache import MemoryCache
from cells.decisions import EmbeddedDecisions
from cells.markers import EmbeddedMarkers
from cells.settings import CellSettings
from cells.snapshot_restore import FolderTarget, Target
from cells.store_embedded import EmbeddedStore
from engine.errors import Misconfigured
from engine.homing import HomeRange
from engine.materialize import PushPolicy
from engine.ports import AuthorInterval, Decisions, Log, Markers, PostCache, Store
from topics.urls import EmbeddedPlace, RedisPlace


def open_store(
    settings: CellSettings,
    *,
    identity: str,
    partitions: int,
    home: HomeRange,
    helper: Path,
    create: bool = True,
    restoring: bool = False,
) -> Store:
    """The store of a cell. `helper` is the argument file of the Java helper, which makes HBase's
    tables when missing and `create`. `restoring`: the caller is who restores it.

    Misconfigured (extra missing, another firehose or cell, tables missing), Precondition (in use),
    Unavailable, Corruption.
    """
    place = settings.place
    if isinstance(place, EmbeddedPlace):
        return EmbeddedStore.open(
            settings.folder / "store",
            identity=identity,
            partitions=partitions,
            cell=settings.name,
            home=home,
        )
    module = _part("cells.store_hbase", "hbase")
    command = _helper_command(place.zookeeper, helper) if helper.exists() else None
    store: Store = module.HBaseStore.open(
        place.url,
        identity=identity,
        partitions=partitions,
        cell=settings.name,
        home=home,
        create=create,
        restoring=restoring,
        helper=command,
    )
    return store


def open_markers(settings: CellSettings) -> Markers:
    """The read markers of a cell, beside its store."""
    if isinstance(settings.place, EmbeddedPlace):
        return EmbeddedMarkers.open(settings.folder / "markers")
    markers: Markers = _part("cells.hbase_markers", "hbase").HBaseMarkers.open(settings.place.url)
    return markers


def open_decisions(settings: CellSettings) -> Decisions:
    """The recorded decisions of a cell, beside its markers."""
    if isinstance(settings.place, EmbeddedPlace):
        return EmbeddedDecisions.open(settings.folder / "decisions")
    module = _part("cells.hbase_decisions", "hbase")
    decisions: Decisions = module.HBaseDecisions.open(settings.place.url)
    return decisions


def open_cache(settings: CellSettings) -> PostCache:
    """The post cache of a cell, for a process that fans out."""
    if isinstance(settings.cache_place, RedisPlace):
        url, part = settings.cache_place.url, _part("cells.cache_redis", "redis")
        cache: PostCache = part.RedisCache(url, settings.name, writer=True)
        return cache
    return MemoryCache()


def restore_target(
    settings: CellSettings, *, identity: str, partitions: int, home: HomeRange, helper: Path
) -> AbstractContextManager[Target]:
    """Where restores and rebuilds put a cell's state, as long as it is needed. Misconfigured,
    Unavailable."""
    place = settings.place
    if isinstance(place, EmbeddedPlace):
        return nullcontext(FolderTarget(settings.folder))
    module = _part("cells.hbase_restore", "hbase")
    meta = rows.Meta(identity, partitions, settings.name, home.first, home.last)
    command = _helper_command(place.zookeeper, helper)
    return closing(module.TableTarget.open(settings.folder, place.url, command, meta))


def copy_of(
    settings: CellSettings, checkpoint: Path, home: HomeRange, log: Log, helper: Path
) -> AbstractContextManager[tuple[Store, list[AuthorInterval]]]:
    """A copy of a running cell in HBase, by a checkpoint of it; what is recorded of its authors."""
    module = _part("cells.hbase_copy", "hbase")
    place = settings.place
    if isinstance(place, EmbeddedPlace):
        raise Misconfigured(f"cell {settings.name} has an embedded store: its checkpoint is a copy")
    policy = PushPolicy(settings.push_followers_max)
    command = _helper_command(place.zookeeper, helper)
    copy: AbstractContextManager[tuple[Store, list[AuthorInterval]]] = module.copied(
        checkpoint, place, settings.name, home, log, policy, command
    )
    return copy


def _helper_command(zookeeper: str, helper: Path) -> list[str]:
    if not helper.exists():
        raise Misconfigured(
            f"hbase.helper names {helper}, which is not there: `firecell stack up` writes it (for"
            " other clusters: docs/deploy.md)"
        )
    return ["java", f"@{helper}", zookeeper]


def _part(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{extra}:// needs {error.name}, which is not installed: install firecell[{extra}], or"
            " type FIRECELL_EXTRAS=1 in front of ./run once"
        ) from None
