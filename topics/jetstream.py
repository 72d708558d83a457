"""Bluesky's Jetstream events as events of ours: pure translation, one line in, at most one out.

| Jetstream | here |
| --- | --- |
| app.bsky.feed.post create, update, delete | post, edit, delete |
| app.bsky.feed.repost create, delete | post with `reblog_of`, delete |
| app.bsky.feed.like create, delete | like, unlike |
| app.bsky.graph.follow create, delete | follow, unfollow |
| app.bsky.graph.block create, delete | block, unblock |
| anything else | counted and skipped |

A post's id comes from its record key alone, so whatever names the post finds it: the key is a TID,
64 bits of which 53 are Unix microseconds and 10 a clock id; the id has the ms since 2010, the
us within the ms, the clock id. Images are blobs of AT Protocol, not URLs, and stay out; a linked
page is a `media` entry.

`Translator` belongs to one batch and one thread.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from engine.errors import BadInput
from engine.ids import EPOCH_MS
from engine.limits import BAD_LINES_NAMED_MAX, ID_AHEAD_MS_MAX
from engine.times import format_ms, parse_time_ms
from topics.jetstream_map import Batch, Collision, Target

_POST, _REPOST = "app.bsky.feed.post", "app.bsky.feed.repost"
_LIKE, _FOLLOW, _BLOCK = "app.bsky.feed.like", "app.bsky.graph.follow", "app.bsky.graph.block"
_RELATIONS = {_FOLLOW: ("follow", "unfollow"), _BLOCK: ("block", "unblock")}
_CODES = {_FOLLOW: 1, _BLOCK: 2, _LIKE: 3}
_DIGITS = {c: n for n, c in enumerate("234567abcdefghijklmnopqrstuvwxyz")}
_TID_CHARACTERS = 13
_OTHER_KEY, _BEFORE, _AHEAD = "other_keys", "before_2010", "ahead"
COLLECTIONS = (_POST, _REPOST, _LIKE, _FOLLOW, _BLOCK)


class Commit(msgspec.Struct):
    """What happened to one record."""

    operation: str
    collection: str
    rkey: str
    rev: str = ""
    record: dict[str, Any] | None = None


class Message(msgspec.Struct):
    """One event of Jetstream. `time_us`: Unix us at which it was seen there."""

    did: str
    time_us: int
    kind: str = ""
    commit: Commit | None = None


class Skip(Exception):
    """This event has no counterpart; `args[0]` is the counter's name."""


class Tally:
    """What an import met: `imported` by event type, `skipped` by reason, examples of refusals."""

    def __init__(self) -> None:
        self.imported: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.bad_lines = self.collisions = self.refused = 0
        self.examples: list[str] = []

    @property
    def wrong(self) -> int:
        """How many events were lost: bad lines, collisions, refused ones."""
        return self.bad_lines + self.collisions + self.refused

    def note(self, what: str) -> None:
        """Keep an example of what was wrong, the first few."""
        if len(self.examples) < BAD_LINES_NAMED_MAX:
            self.examples.append(what)


def post_id(record_key: str, now_ms: int) -> int:
    """The post id of a TID. Raises Skip: no TID, before 2010, or over 60 s ahead of `now_ms`."""
    if len(record_key) != _TID_CHARACTERS or not _DIGITS.keys() >= set(record_key):
        raise Skip(_OTHER_KEY)
    tid = 0
    for character in record_key:
        tid = tid << 5 | _DIGITS[character]
    if tid >> 63:
        raise Skip(_OTHER_KEY)
    ms, us = divmod(tid >> 10, 1_000)
    if ms < EPOCH_MS:
        raise Skip(_BEFORE)
    if ms > now_ms + ID_AHEAD_MS_MAX:
        raise Skip(_AHEAD)
    return (ms - EPOCH_MS) << 22 | us << 12 | (tid & 1023) << 2


class Translator:
    """Lines of Jetstream -> events in the shape of `POST /v1/events`; counts into `tally`."""

    def __init__(self, batch: Batch, tally: Tally, now_ms: int) -> None:
        self._batch = batch
        self._tally = tally
        self._now_ms = now_ms
        self.time_us = 0  # the newest time seen: a stream's cursor

    def event(self, line: bytes) -> dict[str, Any] | None:
        """The event of a line; None when it has none, and then it was counted."""
        try:
            message = _decode_message(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._tally.bad_lines += 1
            self._tally.note(f"no Jetstream event: {error}: {line[:80].decode(errors='replace')}")
            return None
        if not 0 <= message.time_us <= (self._now_ms + ID_AHEAD_MS_MAX) * 1_000:
            self._tally.bad_lines += 1
            self._tally.note(f"time_us {message.time_us} is no time of until now")
            return None
        self.time_us = max(self.time_us, message.time_us)
        try:
            event = self._translate(message)
        except Skip as skip:
            self._tally.skipped[skip.args[0]] += 1
        except Collision as collision:
            self._tally.collisions += 1
            self._tally.note(collision.message)
        except (BadInput, KeyError, TypeError, ValueError, AttributeError):
            self._tally.skipped["malformed_records"] += 1
        else:
            self._tally.imported[event["type"]] += 1
            return event
        return None

    def _translate(self, message: Message) -> dict[str, Any]:
        commit = message.commit
        if message.kind != "commit" or commit is None:
            raise Skip("other_kinds")
        collection = commit.collection
        if collection not in COLLECTIONS:
            raise Skip("other_collections")
        user = self._batch.user(message.did)
        if commit.operation == "create":
            return self._create(message, commit, user)
        if commit.operation == "delete":
            return self._delete(message, commit, user)
        if commit.operation == "update" and collection == _POST:
            return self._edit(message, commit, user)
        raise Skip("other_operations")

    def _create(self, message: Message, commit: Commit, user: int) -> dict[str, Any]:
        record = commit.record or {}
        if commit.collection == _POST:
            return self._post(message, commit, user, record)
        if commit.collection == _REPOST:
            author, post = self._reference(record["subject"])
            return self._base("post", message, record, author=str(user)) | {
                "id": str(post_id(commit.rkey, self._now_ms)),
                "reblog_of": str(post),
                "reblog_author": str(author),
            }
        if commit.collection == _LIKE:
            target = Target(*self._reference(record["subject"]))
        else:
            target = Target(self._batch.user(record["subject"]), 0)
        if not self._batch.add(user, _CODES[commit.collection], commit.rkey, target):
            raise Skip("seen_before")
        return self._said(message, commit.collection, 0, user, target)

    def _delete(self, message: Message, commit: Commit, user: int) -> dict[str, Any]:
        if commit.collection in (_POST, _REPOST):
            post = post_id(commit.rkey, self._now_ms)
            return self._base("delete", message, {}, author=str(user), post=str(post))
        target, last = self._batch.remove(user, _CODES[commit.collection], commit.rkey)
        if target is None:
            raise Skip("unknown_records")
        if not last:
            raise Skip("seen_before")
        return self._said(message, commit.collection, 1, user, target)

    def _edit(self, message: Message, commit: Commit, user: int) -> dict[str, Any]:
        post = post_id(commit.rkey, self._now_ms)
        text = str((commit.record or {})["text"])
        if not self._batch.newer(user, post, commit.rev or f"{message.time_us:020d}"):
            raise Skip("seen_before")
        return self._base("edit", message, {}, author=str(user), post=str(post), text=text)

    def _post(
        self, message: Message, commit: Commit, user: int, record: dict[str, Any]
    ) -> dict[str, Any]:
        event = self._base("post", message, record, author=str(user))
        event |= {"id": str(post_id(commit.rkey, self._now_ms)), "text": str(record["text"])}
        tags, mentions = self._facets(record)
        parent = (record.get("reply") or {}).get("parent")
        if parent is not None:
            author, post = self._reference(parent)
            event |= {"reply_to": str(post), "reply_author": str(author)}
        external = (record.get("embed") or {}).get("external") or {}
        media = [external["uri"]] if external.get("uri") else []
        lists = {"tags": tags, "mentions": mentions, "media": media}
        return event | {name: values for name, values in lists.items() if values}

    def _facets(self, record: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Tags and mentioned users, each once, in their order."""
        tags = dict.fromkeys(str(tag) for tag in record.get("tags") or ())
        mentions: dict[str, None] = {}
        for facet in record.get("facets") or ():
            for feature in facet.get("features") or ():
                kind = feature.get("$type", "")
                if kind.endswith("#tag"):
                    tags[str(feature["tag"])] = None
                elif kind.endswith("#mention"):
                    mentions[str(self._batch.user(feature["did"]))] = None
        return list(tags), list(mentions)

    def _reference(self, subject: dict[str, Any]) -> tuple[int, int]:
        """(author, post) of a strong reference to a post."""
        scheme, _, rest = str(subject["uri"]).partition("://")
        did, collection, record_key = rest.split("/")
        if scheme != "at" or collection != _POST:
            raise Skip("other_collections")
        return self._batch.user(did), post_id(record_key, self._now_ms)

    def _said(
        self, message: Message, collection: str, which: int, user: int, target: Target
    ) -> dict[str, Any]:
        if collection == _LIKE:
            name = ("like", "unlike")[which]
            post = {"post": str(target.post)}
        else:
            name, post = _RELATIONS[collection][which], {}
        return self._base(name, message, {}, reader=str(user), author=str(target.author)) | post

    def _base(
        self, name: str, message: Message, record: dict[str, Any], **fields: str
    ) -> dict[str, Any]:
        """What every event has; `at` is the record's own time where it is one."""
        try:
            at_ms = parse_time_ms(record["createdAt"], "createdAt")
        except (KeyError, TypeError, ValueError, BadInput):
            at_ms = max(message.time_us, 0) // 1_000
        return {"type": name, **fields, "at": format_ms(at_ms)}


_decode_message = msgspec.json.Decoder(Message).decode
