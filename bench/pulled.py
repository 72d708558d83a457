"""What pulling authors costs a page: first pages of readers who follow 0, 5 or 20 pulled authors.

Which authors are pulled, the cell says itself. The readers of a kind are those whose number of them
is the nearest, and who have a full page; the result tells the mean. Over one connection, idle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import uvloop

from bench import load
from bench.check import explain
from bench.load import Client, Task
from bench.processes import CellProcess
from bench.talk import Talk
from bench.workload import I64s, Workload
from engine.errors import FirecellError
from engine.limits import PAGE_POSTS_DEFAULT

KINDS = (0, 5, 20)
READERS = 100  # of a kind
SECONDS = 4.0


def followed_pulled(workload: Workload, authors: list[int]) -> I64s:
    """(U,) how many of `authors` each user follows."""
    chosen = np.isin(workload.authors, np.array(authors, dtype=np.uint64))
    per_edge = np.repeat(chosen, workload.follower_counts)
    return np.bincount(workload.followers[per_edge], minlength=len(workload.users))


def readers_of(counts: I64s, following: I64s, wanted: int) -> I64s:
    """Indexes of the READERS users whose count is the nearest to `wanted` and who follow most, for
    their pages are full."""
    places = np.flatnonzero(following > 0)
    order = np.lexsort((-following[places], np.abs(counts[places] - wanted)))
    return places[order[:READERS]]


def page_costs(
    cell: CellProcess, workload: Workload, followers_max: int, talk: Talk
) -> dict[str, Any]:
    """JSON-ready: `pulled_pages`, by the number of pulled authors that the reader follows."""
    big = workload.authors[workload.follower_counts > followers_max].tolist()
    authors: list[int] = []

    async def ask(client: Client, author: int) -> None:
        if (await explain(client, author)).now == "pulled":
            authors.append(author)

    uvloop.run(load.for_each(cell.url, big, ask, 4))
    cell.wait_settled()
    counts = followed_pulled(workload, authors)
    following = np.bincount(workload.followers, minlength=len(workload.users))
    costs: dict[str, Any] = {}
    for wanted in KINDS:
        chosen = readers_of(counts, following, wanted)
        costs[str(wanted)] = _cost(cell, workload, chosen) | {
            "pulled_authors_mean": round(float(counts[chosen].mean()), 1),
            "following_mean": round(float(following[chosen].mean()), 1),
        }
        talk.say(
            f"a page with {costs[str(wanted)]['pulled_authors_mean']} pulled authors: p50"
            f" {costs[str(wanted)]['p50']:.2f} ms, p99 {costs[str(wanted)]['p99']:.2f} ms"
        )
    return {"pulled_pages": {"pulled_authors": len(authors), **costs}}


def _cost(cell: CellProcess, workload: Workload, chosen: I64s) -> dict[str, Any]:
    paths = [
        f"/v1/users/{user}/dashboard?limit={PAGE_POSTS_DEFAULT}"
        for user in workload.users[chosen].tolist()
    ]
    result = load.end_load(load.start_load(Task(cell.url, paths, 1, SECONDS, 1.0)))
    if result.failures:
        raise FirecellError(f"{result.failures} pages failed")
    return {
        "p50": result.latency_ms["p50"],
        "p99": result.latency_ms["p99"],
        "posts_per_page": result.posts_per_page,
        "readers": len(paths),
    }
