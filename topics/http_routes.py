"""The routes, once: from this table come dispatch, scopes, allowed parameters, the metrics' labels,
`/openapi.json` and the test that asks each of them.

A route stands here only once it works. `roles` says which processes have it; a gateway's read
routes ask the cells. Immutable, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine import limits, wire
from topics.groups_shapes import AckIn, AckOut, RewindIn, RewindPlan
from topics.http_body import JSON_TYPE, NDJSON_TYPE
from topics.http_jobs import JobIn, JobOut, JobsOut

GATEWAY, CELL = "gateway", "cell"
BOTH = (GATEWAY, CELL)
OPEN, PUBLISH, READ, MARKER, ADMIN = "", "publish", "read", "marker", "admin"
STREAM = "stream"
SSE_TYPE = "text/event-stream"


class IdsOut(msgspec.Struct):
    """Post ids that nobody else gets, ascending."""

    ids: list[str]


class ResultLine(msgspec.Struct):
    """The result of an input line: as of a single event, or `error` alone if it was not kept."""

    id: str | None = None
    position: str | None = None
    at: str | None = None
    error: wire.Problem | None = None


class InboxPage(msgspec.Struct):
    """Raw inbox keys, newest first: [post, author] pairs, stale ones included."""

    keys: list[tuple[str, str]]
    next: str | None


@dataclass(frozen=True)
class Parameter:
    """One query parameter: `schema` is JSON Schema."""

    name: str
    about: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True)
class Answer:
    """What a status carries: media type -> msgspec type; None is any JSON object or text."""

    about: str
    content: Mapping[str, Any] = field(default_factory=lambda: {JSON_TYPE: None})


@dataclass(frozen=True)
class Route:
    """One route. `name` is its handler's key and its label in metrics."""

    name: str
    method: str
    path: str
    scope: str
    about: str
    answers: Mapping[int, Answer]
    roles: tuple[str, ...] = BOTH
    parameters: tuple[Parameter, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[int, ...] = ()

    @property
    def allowed(self) -> frozenset[str]:
        """Names of the query parameters."""
        return frozenset(parameter.name for parameter in self.parameters)


def _integer(low: int, high: int, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high, "default": default}


def _json(kind: Any, about: str) -> Answer:
    return Answer(about, {JSON_TYPE: kind})


_CURSOR = Parameter(
    "cursor",
    "strictly behind this place: a page's `next`",
    {"type": "string", "maxLength": limits.CURSOR_CHARACTERS_MAX},
)
_POSTS = Parameter(
    "limit",
    "posts of a page; it may be shorter",
    _integer(1, limits.PAGE_POSTS_MAX, limits.PAGE_POSTS_DEFAULT),
)
_USERS = Parameter(
    "limit",
    "users of a page; it may be shorter",
    _integer(1, limits.FOLLOWERS_PAGE_MAX, limits.FOLLOWERS_PAGE_DEFAULT),
)
_READING = (400, 421, 503)
_ENDLESS = {NDJSON_TYPE: None, SSE_TYPE: None}

_PUBLISHING = (
    Route(
        "events", "POST", "/v1/events", PUBLISH,
        "Publish one event, or one per line of NDJSON: bad lines are refused, good ones kept.",
        {
            201: _json(wire.Published, "durable in the firehose"),
            200: Answer(
                "one result line per input line, in order",
                {NDJSON_TYPE: ResultLine},
            ),
        },
        roles=(GATEWAY,),
        body={JSON_TYPE: wire.EventIn, NDJSON_TYPE: wire.EventIn},
        problems=(400, 408, 413, 415, 422, 503),
    ),
    Route(
        "ids", "GET", "/v1/ids", PUBLISH,
        "Post ids to publish with: the safe retry.",
        {200: _json(IdsOut, "fresh ids")},
        roles=(GATEWAY,),
        parameters=(Parameter("count", "how many", _integer(1, limits.ID_COUNT_MAX, 1)),),
        problems=(400, 503),
    ),
)  # fmt: skip

_PAGES = (
    Route(
        "dashboard", "GET", "/v1/users/{id}/dashboard", READ,
        "What a reader's follows posted, newest first; an unknown user has an empty page.",
        {200: _json(wire.DashboardPage, "a page; only `next: null` ends a walk")},
        parameters=(
            _POSTS,
            _CURSOR,
            Parameter("newer", "page upwards: strictly in front of this cursor"),
            Parameter("after", "wait until this position was applied: read one's own write"),
            Parameter(
                "wait_ms",
                "how long to wait for `after`",
                _integer(0, limits.AFTER_WAIT_MS_MAX, limits.AFTER_WAIT_MS_DEFAULT),
            ),
        ),
        problems=_READING,
    ),
    Route(
        "dashboard_stream", "GET", "/v1/users/{id}/dashboard/stream", READ,
        "Server-sent events: each post that becomes visible, as it does.",
        {200: Answer("events without end; `id:` is a cursor", {SSE_TYPE: None})},
        parameters=(Parameter("newer", "go on at this cursor, as Last-Event-ID does"),),
        problems=_READING,
    ),
    Route(
        "posts", "GET", "/v1/users/{id}/posts", READ,
        "An author's own posts, newest first.",
        {200: _json(wire.PostsPage, "a page")},
        parameters=(_POSTS, _CURSOR),
        problems=_READING,
    ),
    Route(
        "following", "GET", "/v1/users/{id}/following", READ,
        "Whom a reader follows, ascending.",
        {200: _json(wire.FollowPage, "a page")},
        parameters=(_USERS, _CURSOR),
        problems=_READING,
    ),
    Route(
        "followers", "GET", "/v1/users/{id}/followers", READ,
        "Who follows an author, ascending; a cell that does not answer shows in `gaps`.",
        {200: _json(wire.FollowPage, "a page")},
        parameters=(_USERS, _CURSOR),
        problems=(400, 503),
    ),
    Route(
        "marker", "PUT", "/v1/users/{id}/marker", MARKER,
        "Move the read marker, forward only.",
        {200: _json(wire.MarkerOut, "the marker in force, durable")},
        body={JSON_TYPE: wire.MarkerIn},
        problems=(400, 408, 413, 415, 421, 503),
    ),
    Route(
        "post", "GET", "/v1/posts/{id}", READ,
        "One post; with `author` when several authors share the id.",
        {200: _json(wire.PostOut, "the post as it is shown now")},
        parameters=(Parameter("author", "whose post it is"),),
        problems=(400, 404, 409, 410, 503),
    ),
)  # fmt: skip

_ADMIN = (
    Route(
        "status", "GET", "/v1/admin/status", ADMIN,
        "Cells, positions, lag, gaps, rates; the gateway merges its cells'.",
        {200: _json(None, "`cells`: one object each; `missing`: cells that did not answer")},
    ),
    Route(
        "stats", "GET", "/v1/admin/stats", ADMIN,
        "The cell's numbers, as in /metrics.",
        {200: _json(dict[str, float], "name -> number")},
        roles=(CELL,),
    ),
    Route(
        "explain_author", "GET", "/v1/admin/authors/{id}", ADMIN,
        "Whether an author is pushed or pulled, by cell: followers, recorded intervals, saving.",
        {200: _json(None, "`cells`: one object each; `missing`: cells that did not answer")},
        problems=(400, 503),
    ),
    Route(
        "inbox", "GET", "/v1/admin/inbox/{user}", ADMIN,
        "A reader's raw inbox keys, for checkers.",
        {200: _json(InboxPage, "a page of keys")},
        roles=(CELL,),
        parameters=(
            Parameter(
                "limit",
                "keys of a page",
                _integer(1, limits.PAGE_SCAN_KEYS_MAX, limits.PAGE_SCAN_KEYS_MAX),
            ),
            _CURSOR,
        ),
        problems=(400,),
    ),
)  # fmt: skip

_JOBS = (
    Route(
        "job_start", "POST", "/v1/admin/jobs", ADMIN,
        "Plan a job of this cell, or begin it with `execute`: replay, snapshot, quarantine.",
        {200: _json(JobOut, "the job")},
        roles=(CELL,),
        body={JSON_TYPE: JobIn},
        problems=(400, 404, 408, 409, 410, 413, 415, 422, 503),
    ),
    Route(
        "jobs", "GET", "/v1/admin/jobs", ADMIN, "This cell's jobs, replays of old too.",
        {200: _json(JobsOut, "oldest first")},
        roles=(CELL,),
        problems=(503,),
    ),
    Route(
        "job", "GET", "/v1/admin/jobs/{job}", ADMIN, "One job, and how far it is.",
        {200: _json(JobOut, "the job")},
        roles=(CELL,),
        problems=(404, 503),
    ),
    Route(
        "job_stop", "DELETE", "/v1/admin/jobs/{job}", ADMIN, "Stop a replay where it is.",
        {200: _json(JobOut, "the job")},
        roles=(CELL,),
        problems=(404, 409, 503),
    ),
)  # fmt: skip

_GROUP_PROBLEMS = (400, 404, 409, 503)
_STREAM = (
    Route(
        "firehose", "GET", "/v1/firehose", STREAM,
        "The stream of all events: replay and live in one; with `group`, shared with others.",
        {200: Answer("events and control records, until `until` or the client ends it", _ENDLESS)},
        roles=(GATEWAY,),
        parameters=(
            Parameter("since", "a time, earliest, latest, checkpoint, or a vector of positions"),
            Parameter("until", "a time; it may lie in the future"),
            Parameter("types", "only these types of events, comma-separated"),
            Parameter("authors", "only events with one of these in `author`, comma-separated"),
            Parameter("format", "else by Accept", {"type": "string", "enum": ["ndjson", "sse"]}),
            Parameter(
                "clamp",
                "true: begin at the floor when `since` is older, with a gap record",
                {"type": "string", "enum": ["false", "true"]},
            ),
            Parameter(
                "group",
                "share the partitions with all connections of this group",
                {"type": "string", "maxLength": limits.GROUP_NAME_CHARACTERS_MAX},
            ),
            Parameter(
                "ack",
                "manual: resume behind what was acknowledged",
                {"type": "string", "enum": ["auto", "manual"]},
            ),
            Parameter(
                "lease_s",
                "a member that takes or acknowledges nothing loses its partitions after this",
                _integer(
                    limits.GROUP_LEASE_S_MIN, limits.GROUP_LEASE_S_MAX, limits.GROUP_LEASE_S
                ),
            ),
        ),
        problems=(400, 404, 409, 410, 413, 422, 503),
    ),
    Route(
        "ack", "POST", "/v1/groups/{group}/ack", STREAM,
        "Acknowledge: the next offset of any of a session's partitions.",
        {200: _json(AckOut, "the checkpoints in force, durable")},
        roles=(GATEWAY,),
        body={JSON_TYPE: AckIn},
        problems=(*_GROUP_PROBLEMS, 408, 413, 415),
    ),
    Route(
        "groups", "GET", "/v1/admin/groups", ADMIN,
        "All groups that ever had a checkpoint: members, lag, what the retention leaves.",
        {200: _json(None, "`groups`: one object each")},
        roles=(GATEWAY,),
        problems=(503,),
    ),
    Route(
        "group", "GET", "/v1/admin/groups/{group}", ADMIN,
        "One group: its members, and per partition checkpoint, end and lag.",
        {200: _json(None, "the group")},
        roles=(GATEWAY,),
        problems=(400, 404, 503),
    ),
    Route(
        "group_forget", "DELETE", "/v1/admin/groups/{group}", ADMIN,
        "Drop a group's place: who comes by its name begins as a new group.",
        {200: _json(None, "`group`, `forgotten`")},
        roles=(GATEWAY,),
        problems=_GROUP_PROBLEMS,
    ),
    Route(
        "rewind", "POST", "/v1/admin/groups/{group}/rewind", ADMIN,
        "Plan to move a group's checkpoints, or with `execute` move them.",
        {200: _json(RewindPlan, "the plan, and whether it was done")},
        roles=(GATEWAY,),
        body={JSON_TYPE: RewindIn},
        problems=(*_GROUP_PROBLEMS, 408, 413, 415),
    ),
)  # fmt: skip

_PROCESS = (
    Route(
        "healthz", "GET", "/healthz", OPEN, "The process lives.", {200: Answer("alive")}
    ),
    Route(
        "readyz", "GET", "/readyz", OPEN,
        "The process serves. A gateway is ready when publishing works and a cell serves.",
        {200: Answer("ready; the gateway's body lists cells")},
        parameters=(
            Parameter("all", "1: every cell must be ready", {"type": "string", "enum": ["1"]}),
        ),
        problems=(503,),
    ),
    Route(
        "metrics", "GET", "/metrics", OPEN, "Prometheus metrics.",
        {200: Answer("text exposition format", {"text/plain": None})},
    ),
    Route(
        "version", "GET", "/version", OPEN, "Which version runs.", {200: Answer("version")}
    ),
    Route(
        "openapi", "GET", "/openapi.json", OPEN, "This document.", {200: Answer("OpenAPI 3.1")}
    ),
)  # fmt: skip

ROUTES: tuple[Route, ...] = _PUBLISHING + _PAGES + _STREAM + _ADMIN + _JOBS + _PROCESS


def routes_of(role: str) -> tuple[Route, ...]:
    """The routes that a process of this role has."""
    return tuple(route for route in ROUTES if role in route.roles)
