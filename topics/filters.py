"""Which events a consumer wants: by type and by author. Pure; safe from any thread.

`author` is the member of that name in the event's JSON: of a post, edit or delete whose it is, of
everything else whom it is about.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.errors import BadInput, TooLarge
from engine.events import KIND_NAMES, KINDS
from engine.limits import FILTER_AUTHORS_MAX
from engine.wire import parse_user


class Filter(NamedTuple):
    """Kinds (engine.events) and authors that pass; an empty set passes everything."""

    kinds: frozenset[int] = frozenset()
    authors: frozenset[int] = frozenset()

    @property
    def passes_all(self) -> bool:
        """Whether nothing is filtered out."""
        return not self.kinds and not self.authors

    def text(self) -> dict[str, str]:
        """As the query writes it, in order."""
        found = {}
        if self.kinds:
            found["types"] = ",".join(KIND_NAMES[kind] for kind in sorted(self.kinds))
        if self.authors:
            found["authors"] = ",".join(map(str, sorted(self.authors)))
        return found


ALL = Filter()


def parse_filter(types: str | None, authors: str | None) -> Filter:
    """The filter of the query's `types` and `authors`, comma-separated. BadInput names what is
    wrong; TooLarge for more than FILTER_AUTHORS_MAX authors."""
    return Filter(_kinds(types), _authors(authors))


def _kinds(text: str | None) -> frozenset[int]:
    found = set()
    for name in _items(text, "types"):
        if name not in KINDS:
            known = ", ".join(KINDS)
            raise BadInput(f"types: {name[:40]!r} is no type of event; there are {known}", "types")
        found.add(KINDS[name])
    return frozenset(found)


def _authors(text: str | None) -> frozenset[int]:
    names = _items(text, "authors")
    if len(names) > FILTER_AUTHORS_MAX:
        raise TooLarge(
            f"authors: {len(names)} of them; at most {FILTER_AUTHORS_MAX}: take them all, and"
            " filter yourself",
            "authors",
        )
    return frozenset(parse_user(name, "authors") for name in names)


def _items(text: str | None, field: str) -> list[str]:
    if text is None:
        return []
    items = text.split(",")
    if not all(items):
        raise BadInput(f"{field}: an empty item; write a,b,c", field)
    return items
