"""Logging as JSON lines on stderr, the same in every process. Set up once, in the main thread.

Never put a token or a body into a record.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

from engine.times import format_ms

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: at, level, logger, message, role, name, what `extra` gave."""

    def __init__(self, role: str, name: str) -> None:
        super().__init__()
        self._process = {"role": role, "name": name}

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; line ends inside of it are escaped."""
        line: dict[str, object] = {
            "at": format_ms(int(record.created * 1_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
        }
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line.update((key, value) for key, value in extra.items() if key not in line)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def setup_logging(role: str, name: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every logger's records to `stream` (stderr) as JSON lines, replacing what was set."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines(role, name))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("uvicorn.error", "uvicorn.access", "httpx", "httpcore", "asyncio", "numba"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
