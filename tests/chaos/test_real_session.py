"""The shell sessions of README and docs/http.md on Kafka + HBase + Redis: the same pages as on the
embedded default, which `tests/test_docs.py` plays. And what start-up says of what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cells.cell import open_cell
from cells.settings import load_settings
from engine.errors import FirecellError, Misconfigured, NotFound, Unavailable
from tests import real_parts
from tests.chaos.up import running
from tests.real_parts import Parts
from tests.test_docs import SESSIONS, alike, play, steps

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(bool(real_parts.missing()), reason=real_parts.missing()),
]
_CUT = "\n---\n"


@pytest.fixture(scope="module")
def stack() -> Parts:
    return real_parts.shared()


def write(folder: Path, text: str) -> Path:
    config = folder / "firecell.toml"
    config.write_text(text, encoding="utf-8")
    return config


@pytest.mark.parametrize("name", SESSIONS)
def test_the_session_gives_the_same_pages_as_embedded(
    name: str, stack: Parts, tmp_path: Path
) -> None:
    topic = name.partition(".")[0].replace("/", "-")
    config = write(tmp_path, real_parts.configuration(stack, topic, {"c1": topic}))
    with running(tmp_path, config, 1) as up:
        printed = play(name, up.url, tmp_path)
    expected = [text for _, text in steps(name)]
    assert alike(_CUT.join(p.strip() for p in printed)) == alike(
        _CUT.join(e.strip() for e in expected)
    )


def refusal(config: Path, **options: bool) -> FirecellError:
    with pytest.raises(FirecellError) as caught:
        open_cell(load_settings(config, environment={}), "c1", **options)
    return caught.value


def test_plain_faust_only_names_what_is_missing(stack: Parts, tmp_path: Path) -> None:
    text = real_parts.configuration(stack, "probe", {"c1": "probe"})
    error = refusal(write(tmp_path, text), create=False)
    assert isinstance(error, NotFound | Misconfigured) and "probe" in error.message
    open_cell(load_settings(write(tmp_path, text), environment={}), "c1").close()
    fresh = text.replace("/probe?", "/tables?")
    error = refusal(write(tmp_path, fresh), create=False)
    assert isinstance(error, Misconfigured) and "tables.inbox" in error.message
    assert "firecell cell" in error.message


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("{kafka}", "1", Unavailable, "127.0.0.1:1"),
        ("{thrift}", "1", Unavailable, "127.0.0.1:1"),
        ("?zookeeper", "?transport=framed&zookeeper", Unavailable, "framed transport"),
        ("partitions = 32", "partitions = 8", Misconfigured, "32"),
        ("/probe\"", "/probe-other\"", Misconfigured, "firehose"),
    ],
)
def test_a_start_names_what_is_wrong(
    old: str, new: str, kind: type[FirecellError], words: str, stack: Parts, tmp_path: Path
) -> None:
    text = real_parts.configuration(stack, "probe", {"c1": "probe"})
    open_cell(load_settings(write(tmp_path, text), environment={}), "c1").close()
    wrong = text.replace(old.format(**{name: f":{n}" for name, n in stack.ports.items()}),
                         f":{new}" if old.startswith("{") else new)  # fmt: skip
    assert wrong != text
    error = refusal(write(tmp_path, wrong))
    assert isinstance(error, kind) and words in error.message, error.message
