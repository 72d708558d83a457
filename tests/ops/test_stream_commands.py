"""`tail`, `groups` and `rewind` against a gateway on a real firehose: output, files, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.codec import encode
from engine.events import FOLLOW, Post, Relation
from ops.main import main
from tests.topics.firehoses import small_log
from tests.topics.taps import Tap, eventually, gateway
from topics.log_embedded import EmbeddedLog


@pytest.fixture
def firehose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EmbeddedLog, str]]:
    log = small_log(tmp_path / "firehose")
    with gateway(log=log) as (_, url):
        monkeypatch.setenv("FIRECELL_URL", url)
        monkeypatch.chdir(tmp_path)
        yield log, url
    log.close()


def say(log: EmbeddedLog, *texts: str) -> None:
    log.append([(n % 4, encode(Post(7, 5 + n, 0, text))) for n, text in enumerate(texts)])


def test_tail_prints_events_for_people_and_for_programs(
    firehose: tuple[EmbeddedLog, str], capsys: pytest.CaptureFixture[str]
) -> None:
    say(firehose[0], "hello\x1b[2J")
    firehose[0].append([(1, encode(Relation(FOLLOW, 1, 7)))])
    assert main(["tail", "--since", "earliest", "--until", "0s"]) == 0
    out = capsys.readouterr().out
    assert "post     7  hello\\x1b[2J  [5]" in out
    assert "follow   1 -> 7" in out
    arguments = ["tail", "--since", "earliest", "--until", "0s", "--types", "follow", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["reader"] == "1"


def test_tail_with_manual_acknowledgements_keeps_what_it_wrote(
    firehose: tuple[EmbeddedLog, str], capsys: pytest.CaptureFixture[str]
) -> None:
    say(firehose[0], *[f"{number}" for number in range(8)])
    arguments = ["tail", "--group", "g", "--ack", "manual", "--json"]
    assert main([*arguments, "--since", "earliest", "--count", "3"]) == 0
    eventually(lambda: main(["groups", "show", "g"]) == 0, "the group")
    assert sum(firehose[0].committed("g").values()) == 3
    capsys.readouterr()
    assert main([*arguments, "--count", "5"]) == 0
    texts = {json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()}
    assert len(texts) == 5
    assert sum(firehose[0].committed("g").values()) == 8


def test_tail_refuses_with_the_servers_words(
    firehose: tuple[EmbeddedLog, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tail", "--since", "whenever"]) == 2
    assert "since: 'whenever' is no time" in capsys.readouterr().err
    assert main(["tail", "--url", "http://127.0.0.1:9"]) == 1
    assert "no stream of http://127.0.0.1:9" in capsys.readouterr().err
    assert main(["tail", "--group", "cell.c1"]) == 2
    assert main(["tail", "--group", "new", "--since", "checkpoint"]) == 4


def test_groups_are_listed_and_shown(
    firehose: tuple[EmbeddedLog, str], capsys: pytest.CaptureFixture[str]
) -> None:
    log, url = firehose
    say(log, "a", "b", "c")
    log.commit("g", dict.fromkeys(range(4), 0))
    tap = Tap(url, group="g", ack="manual")
    tap.wait(3)
    assert main(["groups", "list"]) == 0
    assert "1 members, 3 events behind; the retention waits" in capsys.readouterr().out
    assert main(["groups", "show", "g"]) == 0
    out = capsys.readouterr().out
    assert f"session {tap.session}, ack=manual" in out
    assert main(["groups", "show", "g", "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["lag"] == 3
    tap.cut()
    assert main(["groups", "show", "nobody"]) == 4


def test_rewind_plans_refuses_acts_exports_and_imports(
    firehose: tuple[EmbeddedLog, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log, url = firehose
    say(log, *[f"{number}" for number in range(12)])
    log.commit("g", dict.fromkeys(range(4), 3))
    assert main(["rewind", "--group", "g", "--export", "place.json"]) == 0
    exported = json.loads((tmp_path / "place.json").read_text())
    assert exported["positions"] == {"0": 3, "1": 3, "2": 3, "3": 3}
    capsys.readouterr()
    assert main(["rewind", "--group", "g", "--to-earliest"]) == 0
    said = capsys.readouterr()
    assert "nothing was done: add --execute" in said.err
    assert log.committed("g")[0] == 3
    tap = Tap(url, group="g")
    assert main(["rewind", "--group", "g", "--to-earliest", "--execute"]) == 3
    assert f"session {tap.session}" in capsys.readouterr().err
    tap.cut()
    eventually(
        lambda: main(["rewind", "--group", "g", "--to-earliest", "--execute"]) == 0, "it is left"
    )
    assert log.committed("g") == dict.fromkeys(range(4), 0)
    arguments = ["rewind", "--group", "g", "--from-file", "place.json", "--execute", "--json"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["executed"] is True
    assert log.committed("g") == dict.fromkeys(range(4), 3)
    assert main(["rewind", "--group", "g", "--shift-by", "-9"]) == 0
    assert "clamped" in capsys.readouterr().out


def test_rewind_refuses_what_it_can_not_do(
    firehose: tuple[EmbeddedLog, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["rewind", "--group", "nobody", "--to-latest"]) == 4
    firehose[0].commit("g", {0: 0})
    assert main(["rewind", "--group", "g"]) == 2
    assert main(["rewind", "--group", "cell.c1", "--to-earliest"]) == 3
    assert "firecell replay --cell c1" in capsys.readouterr().err
    assert main(["rewind", "--group", "g", "--from-file", "missing.json"]) == 4
    (tmp_path / "bad.json").write_text("[1]")
    assert main(["rewind", "--group", "g", "--from-file", "bad.json"]) == 2
