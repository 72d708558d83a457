"""Options and output that commands share. Data go to stdout, talk to stderr. Main thread only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cells.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The firecell.toml; else FIRECELL_CONFIG, else the one in this folder, else defaults.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="A running gateway; else FIRECELL_URL, else the one that runs on the data folder.",
    ),
]


def settings_of(config: Path | None, **flags: object) -> Settings:
    """The settings; `http__port=1` sets http.port. Misconfigured says what is wrong."""
    from cells.settings import load_settings

    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(config, flags=named)


def emit(document: object) -> None:
    """One JSON document on one line of stdout."""
    typer.echo(json.dumps(document, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """One line of talk on stderr."""
    typer.echo(text, err=True)


def on_terminal() -> bool:
    """Whether a person looks at stderr: bars and colours only then."""
    return sys.stderr.isatty()


def printable(text: str) -> str:
    """Text of strangers for a terminal: one line, control characters made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
