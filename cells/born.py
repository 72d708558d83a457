"""What is born in a cell, its markers and its decisions, is never lost unnoticed.

Both lie apart from the store, and no replay brings them back: without decisions, posts that were
left out of inboxes would be pushed when they come again, and others left out (I2, I8); without
markers, what was seen would be new (I7). So each says whose it is, and the store says that it was
begun, and for whom. In this order: a crash between leaves one that the next start tells the store
of. From then on a cell whose store names what is not there, or is another's, does not start.

A new store knows of none: what is there beside it and the cell's own is taken over, as after a
rebuild. So is what older software began, which told nobody.
"""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from cells.backends import open_decisions, open_markers
from cells.settings import CellSettings
from cells.synced import is_there
from engine.errors import Corruption
from engine.ports import Decisions, Markers, Owned, Store
from topics.urls import EmbeddedPlace

VERSION = 1
_ANOTHERS = "of another cell or firehose"
MARKERS, DECISIONS = "markers", "decisions"
_WITHOUT = {
    MARKERS: "what its readers have seen is in no other place",
    DECISIONS: "which posts were left out of inboxes is in no other place",
}


class Owner(msgspec.Struct, frozen=True):
    """Whose it is."""

    identity: str  # of the firehose
    cell: str
    format: int = VERSION


def open_born(
    own: CellSettings, store: Store, identity: str, opened: ExitStack
) -> tuple[Markers, Decisions]:
    """Markers and decisions of a cell, to be closed with `opened`. Raises Corruption when they are
    not those that the store was begun with, and then makes nothing; Misconfigured, Unavailable."""
    owner = msgspec.json.encode(Owner(identity, own.name))
    begun = store.begun()
    if isinstance(own.place, EmbeddedPlace):
        for what in sorted(begun):
            if not is_there(own.folder / what):
                raise _lost(own, what, "missing")
    markers = open_markers(own)
    opened.callback(markers.close)
    decisions = open_decisions(own)
    opened.callback(decisions.close)
    _check(own, MARKERS, markers, store, begun, owner)
    _check(own, DECISIONS, decisions, store, begun, owner)
    return markers, decisions


def _check(
    own: CellSettings,
    what: str,
    owned: Owned,
    store: Store,
    begun: dict[str, bytes],
    owner: bytes,
) -> None:
    found = owned.owner()
    if found is None:
        if what in begun:
            raise _lost(own, what, "empty")
        owned.begin(owner)
    elif found != begun.get(what, owner):
        raise _lost(own, what, f"{_ANOTHERS}, {found.decode(errors='replace')}")
    if what not in begun:
        store.note_begun(what, owner)


def _lost(own: CellSettings, what: str, how: str) -> Corruption:
    if isinstance(own.place, EmbeddedPlace):
        place = str(own.folder / what)
        again = f"`firecell snapshot restore` or `firecell rebuild --cell {own.name}`"
        if what == MARKERS and how.startswith(_ANOTHERS):
            again = "`firecell snapshot restore`: a rebuild from nothing keeps markers as they are"
    else:
        place = f"the table of {what} at {own.place.url}"
        again = "give the cell another name in the URL and let it begin anew"
    return Corruption(
        f"cell {own.name} has lost its {what}: {place} is {how}, and its store was begun with them;"
        f" {_WITHOUT[what]}: put back what was there, or {again}"
    )
