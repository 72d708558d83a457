"""What is asked of a cell beside its live work, and what it answers: the bodies of /v1/admin/jobs.

Types alone: cells/maintenance.py does the work, topics/http_routes.py has the routes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class JobIn(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked of a cell; members that a kind does not know are left out."""

    kind: Literal["replay", "snapshot", "checkpoint", "quarantine"]
    execute: bool = False
    since: str = ""
    until: str | None = None
    name: str = ""
    action: Literal["list", "show", "retry", "drop"] = "list"
    positions: list[str] = []


class JobOut(msgspec.Struct):
    """A job: planned (nothing is done), running, done, stopped or failed."""

    id: str
    kind: str
    state: Literal["planned", "running", "done", "stopped", "failed"]
    plan: dict[str, Any] = {}
    progress: dict[str, Any] = {}
    result: dict[str, Any] = {}
    error: str = ""


class JobsOut(msgspec.Struct):
    """The jobs that a cell knows of, oldest first."""

    jobs: list[JobOut]
