"""Tokens: shown once, kept hashed, scoped, revocable while a process runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine import limits
from engine.errors import BadInput, Misconfigured, NotFound, Precondition
from topics.tokens import Tokens, create_token, load_tokens, read_tokens, revoke_token

CREATED = "2026-01-31T12:00:00.000Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tokens.jsonl"


def test_created_checked_revoked_while_in_use(path: Path) -> None:
    assert load_tokens(path) is None
    tokens = Tokens(path)
    assert tokens.check("anything") is None
    text, kept = create_token(path, ["read", "publish"], "site", CREATED)
    other, _ = create_token(path, ["admin"], "", CREATED)
    assert tokens.check(text) == {"publish", "read"}
    assert tokens.check(other) == {"admin"}
    assert tokens.check(text[:-1]) is None
    assert tokens.check("") is None
    assert tokens.check("\udcff") is None
    assert kept.scopes == ("publish", "read")
    assert load_tokens(path) is not None
    assert revoke_token(path, "site").name == "site"
    assert tokens.check(text) is None
    assert tokens.check(other) == {"admin"}
    with pytest.raises(NotFound, match="tokens list"):
        revoke_token(path, "site")


def test_the_text_is_nowhere_on_disk_and_others_cannot_read(path: Path) -> None:
    text, _ = create_token(path, ["read"], "", CREATED)
    assert len(text) > 40
    for file in path.parent.iterdir():
        assert text.encode() not in file.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        read_tokens(path)


@pytest.mark.parametrize(
    ("scopes", "name"),
    [([], ""), (["reed"], ""), (["read"], "a b"), (["read"], "x" * 65), (["read"], "-x")],
)
def test_bad_asks_are_refused(path: Path, scopes: list[str], name: str) -> None:
    with pytest.raises(BadInput):
        create_token(path, scopes, name, CREATED)
    assert not path.exists()


def test_a_name_is_used_once(path: Path) -> None:
    create_token(path, ["read"], "site", CREATED)
    with pytest.raises(Precondition, match="site"):
        create_token(path, ["read"], "site", CREATED)


def test_there_is_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topics.tokens.TOKENS_MAX", 2)
    for name in ("a", "b"):
        create_token(path, ["read"], name, CREATED)
    with pytest.raises(Precondition, match="revoke"):
        create_token(path, ["read"], "c", CREATED)
    assert limits.TOKENS_MAX >= 2


def test_creating_at_once_loses_none(path: Path) -> None:
    threads = [
        threading.Thread(target=create_token, args=(path, ["read"], f"n{n}", CREATED))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in read_tokens(path)) == [f"n{n}" for n in range(8)]


_NO_SCOPE = '{"name":"a","scopes":["root"],"sha256":"%s","created":""}' % ("0" * 64)
_NO_HASH = '{"name":"a","scopes":["read"],"sha256":"00","created":""}'


@pytest.mark.parametrize("line", ["{", "[]", '{"name":"a"}', _NO_SCOPE, _NO_HASH])
def test_a_damaged_file_is_named_never_ignored_fuzz(path: Path, line: str) -> None:
    create_token(path, ["read"], "good", CREATED)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(Misconfigured, match="line 2"):
        Tokens(path).check("x")
