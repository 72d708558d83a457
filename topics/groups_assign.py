"""Which member of a group has which partitions: as even as can be, with as few moves as can be.

Pure; safe from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def assign(partitions: int, members: Sequence[str], owners: Mapping[int, str]) -> dict[int, str]:
    """Partition -> member. Members keep what they have up to their share; the first `partitions`
    mod `len(members)` of those that have most may keep one more."""
    if not members:
        return {}
    held: dict[str, list[int]] = {member: [] for member in members}
    for partition in range(partitions):
        owner = owners.get(partition)
        if owner in held:
            held[owner].append(partition)
    share, more = divmod(partitions, len(members))
    by_weight = sorted(members, key=lambda member: -len(held[member]))
    room = {member: share + (1 if rank < more else 0) for rank, member in enumerate(by_weight)}
    kept = {partition: member for member in members for partition in held[member][: room[member]]}
    needy = [m for m in by_weight for _ in range(room[m] - min(room[m], len(held[m])))]
    free = [partition for partition in range(partitions) if partition not in kept]
    return {**kept, **dict(zip(free, needy, strict=True))}
