"""The commands against a gateway that answers what they ask: output, exit codes, tokens."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import errors, limits
from ops.client import error_of
from ops.import_ import Summary, parse_edge, read_batches
from ops.main import main
from ops.publish import batches
from tests.ops.fake_gateway import FakeGateway
from topics.http_problem import problem_bytes
from topics.runfiles import RunFile


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeGateway]:
    fake = FakeGateway()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRECELL_URL", fake.url)
    yield fake
    fake.close()


def test_post_prints_the_id(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["post", "7", "hello", "--tag", "a", "--tag", "b"]) == 0
    assert capsys.readouterr().out == "1\n"
    assert gateway.events == [{"type": "post", "author": "7", "text": "hello", "tags": ["a", "b"]}]
    assert main(["post", "7", "again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["position"] == "0:1"


def test_follow(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["follow", "1", "7"]) == 0
    assert capsys.readouterr().out == "1 follows 7\n"
    assert gateway.events == [{"type": "follow", "reader": "1", "author": "7"}]


def test_a_refusal_has_its_exit_code_and_no_trace(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["post", "bad", "x"]) == 2
    assert capsys.readouterr().err == "firecell: author: no id\n"
    assert main(["post", "bad", "x", "--json"]) == 2
    said = json.loads(capsys.readouterr().err)
    assert said == {
        "error": "BadInput",
        "field": "author",
        "message": "author: no id",
        "exit_code": 2,
    }


def test_the_token_is_sent(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["post", "7", "x"]) == 0
    monkeypatch.setenv("FIRECELL_TOKEN", "fc_secret")
    assert main(["post", "7", "x"]) == 0
    sent = [{k.lower(): v for k, v in h.items()}.get("authorization") for h in gateway.headers]
    assert sent == [None, "Bearer fc_secret"]


def test_the_gateway_of_the_data_folder_is_found(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FIRECELL_URL")
    RunFile(tmp_path / "data", "gateway", "main").write(url=gateway.url, version="1")
    assert main(["post", "7", "x"]) == 0
    (tmp_path / "else.toml").write_text('[data]\nfolder = "elsewhere"\n')
    assert main(["post", "7", "x", "--url", gateway.url, "--config", "else.toml"]) == 0


def test_nothing_answers(capsys: pytest.CaptureFixture[str], free_port: Any) -> None:
    assert main(["post", "7", "x", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "nothing answers" in capsys.readouterr().err
    assert main(["post", "7", "x", "--url", "nonsense"]) == 2


def page(number: int, following: str | None) -> dict[str, Any]:
    post = {"id": str(number), "author": "7", "at": "2026-01-31T12:00:00Z", "seen": False,
            "text": f"text {number}\x1b[31m"}  # fmt: skip
    return {"reader": "1", "cell": "c1", "posts": [post], "next": following, "gaps": [
        {"from": "a", "to": "b", "cause": "lost"}]}  # fmt: skip


def test_dashboard_walks_pages(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/v1/users/1/dashboard?limit=20"
    gateway.answers[path] = (200, page(2, "v1-2-7"))
    gateway.answers[path + "&cursor=v1-2-7"] = (200, page(1, None))
    assert main(["dashboard", "1"]) == 0
    shown = capsys.readouterr()
    assert "text 2" in shown.out and "text 1" not in shown.out
    assert "\x1b" not in shown.out, "strangers' control characters don't reach the terminal"
    assert "gap: a to b is not covered: lost" in shown.err and "--pages" in shown.err
    assert main(["dashboard", "1", "--pages", "9", "--json"]) == 0
    pages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["posts"][0]["id"] for one in pages] == ["2", "1"]
    assert main(["dashboard", "1/../2"]) == 4
    assert gateway.paths[-1].startswith("/v1/users/1%2F..%2F2/dashboard")


def test_status(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    cell = {
        "name": "c1",
        "ready": True,
        "applied": {"0": 5, "1": 6},
        "end": {"0": 7, "1": 7},
        "lag_events": 3,
        "lag_seconds": 1.25,
        "gaps": [{"partition": 1, "cause": "lost"}],
        "rates": {"events_per_second": 12.0},
    }
    document = {
        "cells": [cell],
        "missing": [{"cell": "c2", "cause": "away"}],
        "firehose": {"begin": {"0": 1}, "end": {"0": 7, "1": 7}, "partitions": 2},
    }
    gateway.answers["/v1/admin/status"] = (200, document)
    assert main(["status"]) == 0
    shown = capsys.readouterr()
    for part in ("3 events, 1.2 s behind", "applied 11", "end 14", "13 events kept of 14",
                 "gap: partition 1 cause lost", "events per second 12"):  # fmt: skip
        assert part in shown.out
    assert shown.err == "cell c2 does not answer: away\n"
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_publish_a_file(
    gateway: FakeGateway, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    lines = [{"type": "post", "author": str(n), "text": "ü"} for n in range(5)]
    lines[2]["author"] = "bad"
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert main(["publish", str(file), "--json"]) == 1
    shown = capsysbinary.readouterr()
    results = [json.loads(line) for line in shown.out.splitlines()]
    assert [("error" in result) for result in results] == [False, False, True, False, False]
    summary = json.loads(shown.err.splitlines()[-1])
    assert (summary["sent"], summary["refused"]) == (5, 1)
    assert main(["publish", str(tmp_path / "nowhere")]) == 4


def test_publish_stdin(
    gateway: FakeGateway,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"type":"post","author":"1"}')))
    monkeypatch.setattr(sys, "stdin", text)
    assert main(["publish"]) == 0
    assert len(capsysbinary.readouterr().out.splitlines()) == 1
    assert len(gateway.events) == 1


def test_bodies_are_bounded_and_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.publish.BATCH_BYTES_MAX", 400)
    monkeypatch.setattr("ops.publish.IMPORT_BATCH_EVENTS", 3)
    monkeypatch.setattr("ops.publish.PUBLISH_READ_BYTES", 64)
    lines = [b"%d" % n * (n % 9 + 1) for n in range(40)]
    lines.insert(20, b"x" * 1000)
    sent, dropped = [], 0
    for body, too_long in batches(io.BytesIO(b"\r\n".join(lines))):
        rows = body.splitlines()
        assert len(rows) <= 3 and len(body) <= 400
        sent += rows
        dropped += too_long
    assert dropped == 1
    assert sent == lines[:20] + lines[21:]


def test_import_edges(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ops.import_.IMPORT_BATCH_EVENTS", 2)
    monkeypatch.setattr("engine.limits.RETRY_FIRST_MS", 1)
    text = b"# a comment\n1 7\n\n2\t7\r\n3 7 9\nx y\n18446744073709551616 1\n4 7\n5 7"
    good = [("1", "7"), ("2", "7"), ("4", "7"), ("5", "7")]
    for name, content in (("edges", text), ("edges.gz", gzip.compress(text))):
        gateway.events.clear()
        gateway.failures = 1
        (tmp_path / name).write_bytes(content)
        assert main(["import", "edges", str(tmp_path / name), "--json"]) == 1
        shown = capsys.readouterr()
        summary = json.loads(shown.out)
        assert (summary["edges"], summary["bad_lines"], summary["refused"]) == (4, 3, 0)
        assert f"{tmp_path / name}:5: no `reader author`: 3 7 9" in shown.err
        assert [(event["reader"], event["author"]) for event in gateway.events] == good
    assert gateway.batches == [2, 2] * 2
    (tmp_path / "fine").write_text("1 7\n")
    assert main(["import", "edges", str(tmp_path / "fine")]) == 0
    assert main(["import", "edges", str(tmp_path / "nowhere")]) == 4
    (tmp_path / "wrong.gz").write_text("1 7\n")
    assert main(["import", "edges", str(tmp_path / "wrong.gz")]) == 2


def test_a_file_without_lines_ends_fuzz(tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"1" * 1_000_000 + b"\n1 2\n")
    summary = Summary()
    assert [edge for batch, _ in read_batches(file, summary) for edge in batch] == [
        parse_edge(b"1 2")
    ]
    assert summary.bad_lines > 0
    assert len(summary.examples) == limits.BAD_LINES_NAMED_MAX


@pytest.mark.parametrize(
    "name",
    ["NotFound", "Gone", "WrongCell", "Precondition", "RetentionPassed", "Unprocessable",
     "Unauthorized", "Forbidden", "DiskFull"],
)  # fmt: skip
def test_problems_become_our_errors_again(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("what happened", floor="0:12")
    back = error_of(error.status, problem_bytes(error))
    assert type(back) is kind
    assert (back.message, back.extra, back.exit_code) == (
        "what happened", {"floor": "0:12"}, kind.exit_code,
    )  # fmt: skip


def test_a_strangers_answer_is_still_an_error_fuzz() -> None:
    for body in (b"", b"<html>", b"[]", b"{}", b'{"detail": null}', b"\xff"):
        for status in (400, 404, 418, 429, 500, 502, 503):
            assert isinstance(error_of(status, body), errors.FirecellError)
    assert isinstance(error_of(503, b"", "7"), errors.Unavailable)
    assert error_of(503, b"", "7").retry_after_s == 7  # type: ignore[attr-defined]
