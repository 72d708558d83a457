"""`firecell explain author`: what it prints of the cells' answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ops.main import main
from tests.ops.fake_gateway import FakeGateway

DOCUMENT = {
    "author": "7",
    "cells": [
        {
            "cell": "c1",
            "author": "7",
            "followers": 25_000,
            "push_followers_max": 20_000,
            "now": "pulled",
            "why": "had 20,001 followers here, above 20,000",
            "intervals": [
                {
                    "from_offset": 1_200,
                    "from": "2026-01-01T00:00:00.000Z",
                    "from_followers": 20_001,
                    "push_followers_max": 20_000,
                    "to_offset": 1_300,
                    "to": "2026-01-02T00:00:00.000Z",
                    "to_followers": 15_999,
                },
                {
                    "from_offset": 1_400,
                    "from": "2026-01-03T00:00:00.000Z",
                    "from_followers": 20_001,
                    "push_followers_max": 20_000,
                    "to_offset": None,
                    "to": None,
                    "to_followers": None,
                },
            ],
            "saved_inbox_writes": 50_000,
            "saved_per_post": 25_000,
        }
    ],
    "missing": [{"cell": "c2", "cause": "away"}],
}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    fake = FakeGateway()
    monkeypatch.setenv("FIRECELL_URL", fake.url)
    yield fake
    fake.close()


def test_explain_author(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers["/v1/admin/authors/7"] = (200, DOCUMENT)
    assert main(["explain", "author", "7"]) == 0
    shown = capsys.readouterr()
    for part in (
        "cell c1          pulled: had 20,001 followers here, above 20,000",
        "25,000 followers at home here; 50,000 inbox writes saved",
        "pulled from offset 1,200, 2026-01-01T00:00:00.000Z (20,001 followers), to offset 1,300",
        "pulled from offset 1,400, 2026-01-03T00:00:00.000Z (20,001 followers), on",
    ):
        assert part in shown.out
    assert shown.err == "cell c2 does not answer: away\n"
    assert main(["explain", "author", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_a_user_that_is_no_number_is_refused(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "author", "seven"]) == 2
    assert "ID" in capsys.readouterr().err
    assert gateway.paths == []
