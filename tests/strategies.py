"""What hypothesis draws events from, and how long it may look. Shared by the property tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from engine import events, limits
from engine.events import Delete, Edit, Event, Post, Reaction, Relation
from engine.limits import AT_MS_MAX, POST_ID_MAX, U64_MAX

RELATION_KINDS = (
    events.FOLLOW,
    events.UNFOLLOW,
    events.BLOCK,
    events.UNBLOCK,
    events.MUTE,
    events.UNMUTE,
)
REACTION_KINDS = (events.LIKE, events.UNLIKE)


def looks(examples: int) -> settings:
    """Hypothesis settings for a machine that others share: so many examples, no stop-watch."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def edges(highest: int) -> st.SearchStrategy[int]:
    """Ints in 0..highest; the widths' edges come often."""
    corners = {
        at
        for bits in (0, 5, 7, 8, 16, 31, 32, 53, 63, 64)
        for at in (2**bits - 1, 2**bits, 2**bits + 1)
        if at <= highest
    }
    return st.sampled_from(sorted(corners | {0, highest})) | st.integers(0, highest)


u64s = edges(U64_MAX)
post_ids = edges(POST_ID_MAX)
times_ms = edges(AT_MS_MAX)
texts = st.text(max_size=60) | st.sampled_from(["", "\x00", "é" * 16, "😀", '"\\/\b\n', "￿"])
references = st.none() | st.tuples(post_ids, u64s)


@st.composite
def posts(draw: st.DrawFn, ids: st.SearchStrategy[int] = post_ids) -> Post:
    """Posts of every shape that the contract allows."""
    reblog_of, reblog_author = draw(references) or (None, None)
    reply_to, reply_author = draw(references) or (None, None)
    return Post(
        author=draw(u64s),
        id=draw(ids),
        at_ms=draw(times_ms),
        text=draw(texts),
        tags=tuple(draw(st.lists(st.text(max_size=20), max_size=limits.TAGS_MAX))),
        media=tuple(draw(st.lists(st.text(max_size=20), max_size=limits.MEDIA_MAX))),
        mentions=tuple(draw(st.lists(u64s, max_size=limits.MENTIONS_MAX))),
        reblog_of=reblog_of,
        reblog_author=reblog_author,
        reply_to=reply_to,
        reply_author=reply_author,
    )


def all_events() -> st.SearchStrategy[Event]:
    """Events of all eleven kinds."""
    return st.one_of(
        posts(),
        st.builds(Edit, u64s, post_ids, times_ms, texts),
        st.builds(Delete, u64s, post_ids, times_ms),
        st.builds(Relation, st.sampled_from(RELATION_KINDS), u64s, u64s, times_ms),
        st.builds(Reaction, st.sampled_from(REACTION_KINDS), u64s, u64s, post_ids, times_ms),
    )
