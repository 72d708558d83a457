"""The contract of the port `Markers`: every backend passes the same tests."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cells.hbase_markers import HBaseMarkers
from cells.markers import EmbeddedMarkers
from engine.limits import POST_ID_MAX, U64_MAX
from engine.ports import Markers
from tests.hbase_backend import empty_cell

BACKENDS = ["embedded", pytest.param("hbase", marks=pytest.mark.real)]
Opens = Callable[[], Markers]


@pytest.fixture(params=BACKENDS)
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    opened: list[Markers] = []

    def embedded() -> Markers:
        for markers in opened:
            markers.close()
        opened.append(EmbeddedMarkers.open(tmp_path / "markers"))
        return opened[-1]

    def hbase() -> Markers:
        opened.append(HBaseMarkers.open(url))
        return opened[-1]

    with ExitStack() as stack:
        if request.param == "embedded":
            yield embedded
        else:
            url = stack.enter_context(empty_cell())
            yield hbase
        for markers in opened:
            markers.close()


@pytest.fixture
def markers(opens: Opens) -> Markers:
    return opens()


def test_unknown_reader_has_no_marker(markers: Markers) -> None:
    assert markers.get(1) is None


def test_markers_only_grow(markers: Markers) -> None:
    assert markers.advance(1, 50) == 50
    assert markers.advance(1, 40) == 50
    assert markers.advance(1, 50) == 50
    assert markers.advance(1, 60) == 60
    assert markers.get(1) == 60
    assert markers.get(2) is None


def test_edges_of_ids(markers: Markers) -> None:
    assert markers.advance(U64_MAX, POST_ID_MAX) == POST_ID_MAX
    assert markers.advance(0, 0) == 0
    assert markers.get(0) == 0 and markers.get(U64_MAX) == POST_ID_MAX


def test_all_are_told_and_copied(markers: Markers, tmp_path: Path) -> None:
    wanted = {reader: reader % 1_000 for reader in (0, 5, 2_000, U64_MAX)}
    wanted[7] = POST_ID_MAX
    for reader, post in wanted.items():
        markers.advance(reader, post)
    markers.advance(5, 1)
    assert dict(markers.all()) == wanted
    markers.copy_to(str(tmp_path / "copy"))
    with closing(EmbeddedMarkers.open(tmp_path / "copy")) as copy:
        assert dict(copy.all()) == wanted


def test_many_advance_at_once(markers: Markers) -> None:
    markers.advance(1, 50)
    assert isinstance(markers, EmbeddedMarkers | HBaseMarkers)
    markers.advance_many([(1, 40), (2, 9), *((reader, reader) for reader in range(3, 1_500))])
    assert (markers.get(1), markers.get(2), markers.get(1_499)) == (50, 9, 1_499)


def test_markers_survive_restart(opens: Opens) -> None:
    assert opens().advance(7, 99) == 99
    again = opens()
    assert again.get(7) == 99
    assert again.advance(7, 98) == 99


def test_devices_at_once_agree_on_the_newest(markers: Markers) -> None:
    seen: list[tuple[int, int, int]] = []
    failures: list[BaseException] = []

    def device(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(60):
                reader, post = dice.randrange(5), dice.randrange(1_000)
                seen.append((reader, post, markers.advance(reader, post)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=device, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for reader, post, in_force in seen:
        assert post <= in_force <= (markers.get(reader) or 0)
    for reader in range(5):
        assert markers.get(reader) == max(post for r, post, _ in seen if r == reader)


def test_whose_they_are_is_kept_and_is_none_of_them_restart(opens: Opens) -> None:
    markers = opens()
    assert markers.owner() is None
    markers.begin(b"mine")
    markers.begin(b"mine")
    assert markers.advance(7, 99) == 99
    again = opens()
    assert again.owner() == b"mine"
    assert again.get(7) == 99


def test_close_is_idempotent(markers: Markers) -> None:
    markers.close()
    markers.close()
