"""`firecell follow READER AUTHOR`."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.options import Config, Json, Url, emit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("follow")(follow)


def follow(
    reader: Annotated[str, typer.Argument(help="Who wants to see the posts.")],
    author: Annotated[str, typer.Argument(help="Whose posts.")],
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Let a reader follow an author; following again changes nothing.

    The author's newest posts appear in the reader's dashboard too.

    \b
    Examples:
      firecell follow 1 7              user 1 sees what user 7 posts
    """
    from ops.client import connect

    with connect(config, url) as client:
        done = client.publish({"type": "follow", "reader": reader, "author": author})
    if json_wanted:
        emit(done)
    else:
        typer.echo(f"{reader} follows {author}")
