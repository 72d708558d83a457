"""The log is one JSON object a line, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from topics.jsonlog import setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    text = io.StringIO()
    setup_logging("cell", "c1", stream=text)
    yield text
    root.handlers[:], level = before
    root.setLevel(level)


def test_one_object_a_line(stream: io.StringIO) -> None:
    log = logging.getLogger("firecell.x")
    log.info("a\nb %s", "ü", extra={"partition": 3, "role": "never replaced"})
    log.debug("not shown")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it broke")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["message"] == "a\nb ü"
    assert (first["level"], first["role"], first["name"], first["partition"]) == (
        "info", "cell", "c1", 3,
    )  # fmt: skip
    assert first["at"].endswith("Z")
    assert "ValueError: why" in second["error"]
