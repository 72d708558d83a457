"""Names of groups: which there may be, and which belong to cells and relays."""

from __future__ import annotations

import pytest

from engine.errors import BadInput
from topics.catalog import (
    check_group_name,
    check_public_group_name,
    gateways_group,
    gateways_topic,
)


@pytest.mark.parametrize("group", ["a", "cells", "my-group_2.x", "x" * 64, "0", ".", "relay"])
def test_public_names(group: str) -> None:
    assert check_public_group_name(group) == check_group_name(group) == group


@pytest.mark.parametrize("group", ["cell.c1", "relay.east", "cell."])
def test_reserved_names_are_groups_but_nobody_elses(group: str) -> None:
    assert check_group_name(group) == group
    with pytest.raises(BadInput, match="belong to cells and relays") as caught:
        check_public_group_name(group)
    assert caught.value.field == "group"


@pytest.mark.parametrize("group", ["", "A", "x" * 65, "a b", "a\n", "é", "a:b"])
def test_no_names(group: str) -> None:
    with pytest.raises(BadInput):
        check_group_name(group)


def test_the_gateways_group_is_nobodys_name() -> None:
    """Nor does it show in lists: they skip what is no group's name."""
    with pytest.raises(BadInput):
        check_group_name(gateways_group("firehose"))
    assert gateways_topic("firehose") == "firehose.gateways"
