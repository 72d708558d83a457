"""Tokens: who may call when the address is not loopback (DESIGN 11).

A token is 256 random bits, shown once; the file keeps its SHA-256, its scopes and a name, one JSON
object a line, readable by its owner only. Guessing is hopeless, so a plain hash is enough; the
comparison goes over all tokens in constant time. Several processes may read; `create` and `revoke`
take a lock. A running process sees a change at its next check. Use one `Tokens` from one thread.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import BadInput, Misconfigured, NotFound, Precondition
from engine.limits import (
    SUCCESSOR_WAIT_S,
    TOKEN_BYTES,
    TOKEN_NAME_CHARACTERS_MAX,
    TOKENS_FILE_BYTES_MAX,
    TOKENS_MAX,
)
from topics.locks import FileLock

SCOPES = ("publish", "stream", "read", "marker", "admin")
_PREFIX = "fc_"  # so that a secret scanner, and a person, knows what it sees
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Token:
    """What is kept of a token."""

    name: str
    scopes: tuple[str, ...]
    sha256: str
    created: str


class Tokens:
    """The tokens of one file; re-read when it changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._entries: list[tuple[bytes, frozenset[str]]] = []

    def check(self, token: str) -> frozenset[str] | None:
        """The scopes of a token's text; None for an unknown one."""
        self._refresh()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, scopes in self._entries:  # no early end: time must not tell which one matched
            if hmac.compare_digest(known, digest):
                found = scopes
        return found

    def __len__(self) -> int:
        self._refresh()
        return len(self._entries)

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._entries = None, []
            return
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            kept = read_tokens(self.path)
            self._entries = [(bytes.fromhex(t.sha256), frozenset(t.scopes)) for t in kept]
            self._stamp = stamp


def load_tokens(path: Path) -> Tokens | None:
    """The tokens of a file, or None when there are none: a loopback process then needs none."""
    tokens = Tokens(path)
    return tokens if len(tokens) else None


def read_tokens(path: Path) -> list[Token]:
    """All kept tokens, oldest first. Misconfigured when the file is no tokens file, or others may
    read it."""
    try:
        status = path.stat()
        text = path.read_bytes()[: TOKENS_FILE_BYTES_MAX + 1]
    except FileNotFoundError:
        return []
    if status.st_mode & 0o077:
        raise Misconfigured(f"{path}: others may read the tokens; run: chmod 600 {path}")
    if len(text) > TOKENS_FILE_BYTES_MAX:
        raise Misconfigured(f"{path}: more than {TOKENS_FILE_BYTES_MAX} bytes: no tokens file")
    return [_parse(path, number, line) for number, line in enumerate(text.splitlines(), 1)]


def _parse(path: Path, number: int, line: bytes) -> Token:
    try:
        document = json.loads(line)
        token = Token(
            str(document["name"]),
            tuple(document["scopes"]),
            str(document["sha256"]),
            str(document["created"]),
        )
        whole = len(bytes.fromhex(token.sha256)) == hashlib.sha256().digest_size
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or not set(token.scopes) <= set(SCOPES):
        raise Misconfigured(f"{path}: line {number} is no token; mend it or take the line out")
    return token


def create_token(path: Path, scopes: Sequence[str], name: str, created: str) -> tuple[str, Token]:
    """Make a token and keep its hash: (its text, shown this once; what is kept).

    `name` "" takes the hash's first characters. BadInput for an unknown scope or a bad name,
    Precondition when the name is taken or `TOKENS_MAX` are kept.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        what = f"unknown scope {unknown[0]!r}" if unknown else "no scope"
        raise BadInput(f"{what}: choose from {', '.join(SCOPES)}", "scope")
    if name and (len(name) > TOKEN_NAME_CHARACTERS_MAX or not _NAME.fullmatch(name)):
        raise BadInput(f"name {name[:80]!r}: use letters, digits and . _ - only", "name")
    text = _PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    digest = hashlib.sha256(text.encode()).hexdigest()
    ordered = tuple(scope for scope in SCOPES if scope in scopes)
    token = Token(name or digest[:8], ordered, digest, created)
    with _locked(path):
        kept = read_tokens(path)
        if any(token.name == other.name for other in kept):
            raise Precondition(f"a token named {token.name!r} is there: revoke it, or name another")
        if len(kept) >= TOKENS_MAX:
            raise Precondition(f"{TOKENS_MAX} tokens are kept already: revoke some")
        _write(path, [*kept, token])
    return text, token


def revoke_token(path: Path, name: str) -> Token:
    """Forget the token of this name; NotFound when there is none."""
    with _locked(path):
        kept = read_tokens(path)
        for token in kept:
            if token.name == name:
                _write(path, [other for other in kept if other is not token])
                return token
    raise NotFound(f"no token is named {name!r}; `firecell tokens list` names them")


def _locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    return FileLock.acquire(lock, SUCCESSOR_WAIT_S, f"{path}: another command holds the tokens")


def _write(path: Path, tokens: Sequence[Token]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as lines:
        for token in tokens:
            lines.write(json.dumps(asdict(token)) + "\n")
        lines.flush()
        os.fsync(lines.fileno())
    draft.replace(path)
