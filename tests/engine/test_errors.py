"""The tree of errors is what its docstring draws; `invariant` stays on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine import errors
from engine.errors import (
    BadInput,
    Conflict,
    Corruption,
    DiskFull,
    FirecellError,
    Forbidden,
    Gone,
    Misconfigured,
    NotFound,
    Precondition,
    RetentionPassed,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unprocessable,
    WrongCell,
    invariant,
)

TREE = [  # error, its parent, HTTP status, exit code (API.md, Commands)
    (BadInput, FirecellError, 400, 2),
    (TooLarge, BadInput, 413, 2),
    (Unprocessable, FirecellError, 422, 1),
    (Unauthorized, FirecellError, 401, 1),
    (Forbidden, FirecellError, 403, 1),
    (NotFound, FirecellError, 404, 4),
    (Gone, NotFound, 410, 4),
    (Conflict, FirecellError, 409, 3),
    (WrongCell, Conflict, 421, 3),
    (Precondition, FirecellError, 409, 3),
    (RetentionPassed, Precondition, 410, 3),
    (Unavailable, FirecellError, 503, 1),
    (DiskFull, Unavailable, 503, 1),
    (Misconfigured, FirecellError, 500, 2),
    (Corruption, FirecellError, 500, 3),
]


@pytest.mark.parametrize(("error", "parent", "status", "exit_code"), TREE)
def test_place_status_and_exit_code(error, parent, status, exit_code):
    assert error.__base__ is parent
    raised = error("what happened")
    assert (raised.status, raised.exit_code) == (status, exit_code)
    assert raised.message == str(raised) == "what happened"


def test_the_tree_is_complete():
    public = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, FirecellError)
    }
    assert public == {row[0] for row in TREE} | {FirecellError}


def test_a_dependencys_failure_is_never_bad_input():
    """I11: a worker quarantines BadInput, and waits for the others."""
    for error in (Unavailable, DiskFull, Corruption, Misconfigured, Precondition):
        assert not issubclass(error, BadInput | Unprocessable)


def test_bad_input_names_its_field_to_clients():
    assert BadInput("no u64", "author").extra == {"field": "author"}
    assert BadInput("no u64", "author").field == "author"
    assert BadInput("malformed").extra == {}
    assert TooLarge("too long", "text", limit=3).extra == {"field": "text", "limit": 3}


def test_extra_and_retry_after():
    assert RetentionPassed("gone", floor=[1, 2]).extra == {"floor": [1, 2]}
    assert Unavailable("down").retry_after_s == 1
    assert DiskFull("full", retry_after_s=30, free=0).retry_after_s == 30
    assert DiskFull("full", retry_after_s=30, free=0).extra == {"free": 0}


def test_invariant():
    invariant(True, "never said")
    with pytest.raises(Corruption, match="invariant broken: rows before keys"):
        invariant(False, "rows before keys")


def test_invariant_stays_on_without_assertions():
    code = "from engine.errors import invariant; invariant(False, 'still here')"
    root = Path(errors.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Corruption: invariant broken: still here" in done.stderr
