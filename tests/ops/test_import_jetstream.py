"""`firecell import jetstream` against a gateway that remembers: files, live streams, failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zstandard
from websockets.sync.server import Server, ServerConnection, serve

from engine import limits
from ops.main import main
from tests.ops.fake_gateway import FakeGateway
from tests.topics.test_jetstream import ALICE, BOB, KEY, line, tid, uri
from topics.jetstream_map import user_id

FOLLOW = line("create", "app.bsky.graph.follow", "f", {"subject": BOB})
POST = line("create", "app.bsky.feed.post", record={"text": "hello"})
LIKE = line("create", "app.bsky.feed.like", "l", {"subject": uri(BOB, KEY)})
OTHER = line("create", "app.bsky.actor.profile", "self", {})


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeGateway]:
    fake = FakeGateway()
    fake.answers["/v1/admin/status"] = (200, {"firehose": {"identity": "f1"}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRECELL_URL", fake.url)
    yield fake
    fake.close()


def kinds(gateway: FakeGateway) -> list[str]:
    return [event["type"] for event in gateway.events]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_is_imported_and_again_changes_nothing(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str], compressed: bool
) -> None:
    text = b"\n".join((FOLLOW, POST, b"", LIKE, OTHER)) + b"\n"
    file = tmp_path / "day.ndjson"
    # Two frames, as `cat a.zst b.zst` makes them.
    packed = b"".join(zstandard.compress(half) for half in (text[:300], text[300:]))
    file.write_bytes(packed if compressed else text)
    assert main(["import", "jetstream", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["imported"] == {"follow": 1, "post": 1, "like": 1}
    assert said["skipped"] == {"other_collections": 1}
    assert kinds(gateway) == ["follow", "post", "like"]
    assert gateway.events[0]["reader"] == str(user_id(ALICE))
    assert main(["import", "jetstream", str(file)]) == 0
    assert kinds(gateway) == ["follow", "post", "like", "post"]
    assert gateway.events[3] == gateway.events[1]  # the same id: publishing it changes nothing
    assert "2 seen_before" in capsys.readouterr().err


def test_bad_and_refused_lines_are_told_and_the_rest_is_kept(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "day.ndjson"
    file.write_bytes(b"\n".join((FOLLOW, b"{", b"x" * limits.JETSTREAM_LINE_BYTES_MAX, POST)))
    assert main(["import", "jetstream", str(file), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["bad_lines"] == 2
    assert "a line of over" in err
    assert kinds(gateway) == ["follow", "post"]


def test_a_cut_off_file_gives_what_it_has(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "day.ndjson.zst"
    whole = zstandard.compress(b"\n".join((FOLLOW, POST, LIKE)) + b"\n")
    file.write_bytes(whole + zstandard.compress(OTHER)[:30] + b"garbage")
    assert main(["import", "jetstream", str(file)]) == 1
    assert "damaged or cut off" in capsys.readouterr().err
    assert kinds(gateway) == ["follow", "post", "like"]
    file.write_bytes(b"no zstd")
    assert main(["import", "jetstream", str(file)]) == 2
    assert main(["import", "jetstream", str(tmp_path / "none")]) == 4


def test_a_server_that_fails_is_waited_for_and_nothing_is_forgotten(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.limits.RETRY_MS_MAX", 1)
    monkeypatch.setattr("engine.limits.RETRY_FIRST_MS", 1)
    file = tmp_path / "day.ndjson"
    file.write_bytes(FOLLOW)
    gateway.failures = limits.CLIENT_RETRIES_MAX + 1
    assert main(["import", "jetstream", str(file)]) == 1
    assert gateway.events == []
    assert main(["import", "jetstream", str(file)]) == 0
    assert kinds(gateway) == ["follow"]


def test_count_stops_there(gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "day.ndjson"
    keys = [tid(1_400_000_000_000_000 + n) for n in range(20)]
    posts = [line("create", "app.bsky.feed.post", key, {"text": "x"}) for key in keys]
    file.write_bytes(b"\n".join(posts))
    assert main(["import", "jetstream", str(file), "--count", "7"]) == 0
    assert len(gateway.events) == 7


class Stream:
    """A Jetstream of `lines`, a second apart from Unix second 1,000; each connection breaks after
    `breaks_after` events, the last one stays open."""

    def __init__(self, lines: list[dict[str, Any]], breaks_after: int) -> None:
        self.lines = lines
        self.breaks_after = breaks_after
        self.asked: list[dict[str, list[str]]] = []
        self.stop = threading.Event()
        self.server: Server = serve(self._serve, "127.0.0.1", 0)
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}/subscribe"

    def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        query = parse_qs(urlsplit(connection.request.path).query)
        self.asked.append(query)
        since = int(query.get("cursor", ["0"])[0])
        waiting = [each for each in self.lines if each["time_us"] >= since]
        for each in waiting[: self.breaks_after]:
            connection.send(json.dumps(each))
        if len(waiting) <= self.breaks_after:
            self.stop.wait(10)

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self._thread.join()


def test_a_live_stream_goes_on_where_it_broke_and_where_it_stopped(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops.import_jetstream.JETSTREAM_BATCH_S", 0.05)
    monkeypatch.setattr("ops.import_jetstream.JETSTREAM_OVERLAP_MS", 0)
    lines = []
    for second in range(1_000, 1_010):
        record = {"text": str(second)}
        key = tid(1_400_000_000_000_000 + second)
        raw = line("create", "app.bsky.feed.post", key, record)
        lines.append({**json.loads(raw), "time_us": second * 10**6})
    stream = Stream(lines, breaks_after=4)
    try:
        assert main(["import", "jetstream", stream.url, "--count", "6"]) == 0
        texts = [event["text"] for event in gateway.events]
        assert texts == ["1000", "1001", "1002", "1003", "1003", "1004"]  # the seam comes twice
        assert "cursor" not in stream.asked[0]
        assert stream.asked[1]["cursor"] == [str(1_003 * 10**6)]
        assert len(stream.asked[0]["wantedCollections"]) == 5
        assert main(["import", "jetstream", stream.url, "--count", "4"]) == 0
        assert stream.asked[2]["cursor"] == [str(1_004 * 10**6)]
        assert [event["text"] for event in gateway.events][6:] == ["1004", "1005", "1006", "1007"]
    finally:
        stream.close()
    assert "skipped: none" in capsys.readouterr().err


def test_ctrl_c_keeps_what_came(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.import_jetstream.JETSTREAM_BATCH_S", 30)
    stream = Stream([json.loads(POST)], breaks_after=1)
    received = threading.Event()

    def interrupted(self: Any, *arguments: Any, **named: Any) -> Any:
        if received.is_set():
            raise KeyboardInterrupt
        received.set()
        return original(self, *arguments, **named)

    from websockets.sync.client import ClientConnection

    original = ClientConnection.recv
    monkeypatch.setattr(ClientConnection, "recv", interrupted)
    try:
        assert main(["import", "jetstream", stream.url]) == 0
    finally:
        stream.close()
    assert kinds(gateway) == ["post"]
