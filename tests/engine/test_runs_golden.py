"""Golden bytes of a sorted run: the format is on disk, so these never change."""

from __future__ import annotations

import hashlib

import numpy as np

from engine.keys import inbox_key, inbox_keys
from engine.runs import run_chunks

U64 = np.uint64
GOLDEN_START = (
    "0020000000000000000001fffffffffffffff9000000000000000701000000000000000f1100fa00"
    "00000000000007010000000000000007190002fffffffffffffffa00000000000000070100000000"
    "000000000000000100000000048e493a00240472"
)
GOLDEN_END = (
    "01940620b9062d000000000000000000000000000000000000000000000000000000000000000000"
    "0002000000f7cff485b741e288"
)
GOLDEN_LARGE = "8f213fe5906dc75b2640a8064679d908d22d1a7c55f34f39fe200f2d3be963f2"


def test_small_run_golden() -> None:
    keys = b"".join(sorted([inbox_key(1, 5, 7), inbox_key(1, 6, 7), inbox_key(2, 5, 7)]))
    array = np.frombuffer(keys, dtype=np.uint8).reshape(-1, 24)
    data = b"".join(bytes(chunk) for chunk in run_chunks(array))
    assert data[:100].hex() == GOLDEN_START
    assert data[-53:].hex() == GOLDEN_END


def test_large_run_golden() -> None:
    count = 100_000
    readers = np.arange(count, dtype=U64)
    keys = inbox_keys(readers, readers * U64(977), readers % U64(13))
    digest = hashlib.sha256()
    for chunk in run_chunks(keys):
        digest.update(chunk)
    assert digest.hexdigest() == GOLDEN_LARGE
