"""Filters of a stream: what they let through, and how they refuse."""

from __future__ import annotations

import pytest

from engine.errors import BadInput, TooLarge
from engine.limits import FILTER_AUTHORS_MAX
from topics.filters import ALL, parse_filter


def test_no_filter_passes_everything():
    assert parse_filter(None, None) == ALL
    assert ALL.passes_all
    assert ALL.text() == {}


def test_the_order_in_the_query_does_not_matter():
    one, other = parse_filter("post,like", "9,10"), parse_filter("like,post", "10,9,9")
    assert one == other
    assert one.text() == {"types": "post,like", "authors": "9,10"}


@pytest.mark.parametrize("types", ["", "posts", "post,", "post,,like", "POST"])
def test_unknown_types_are_named(types: str):
    with pytest.raises(BadInput) as caught:
        parse_filter(types, None)
    assert caught.value.field == "types"


@pytest.mark.parametrize("authors", ["", "x", "-1", "1,", str(2**64)])
def test_authors_are_u64(authors: str):
    with pytest.raises(BadInput) as caught:
        parse_filter(None, authors)
    assert caught.value.field == "authors"


def test_too_many_authors_are_refused():
    with pytest.raises(TooLarge):
        parse_filter(None, ",".join(map(str, range(FILTER_AUTHORS_MAX + 1))))
