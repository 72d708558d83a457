"""`firecell post USER TEXT`."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.options import Config, Json, Url, emit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("post")(post)


def post(
    user: Annotated[str, typer.Argument(help="Who posts: a number below 2^64.")],
    text: Annotated[str, typer.Argument(help="What they say.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Post as a user. Prints the post's id once it is durable.

    \b
    Examples:
      firecell post 7 "hello, world"
      firecell post 7 "a cat" --tag cats --tag gifs --json
    """
    from ops.client import connect

    event: dict[str, object] = {"type": "post", "author": user, "text": text}
    if tag:
        event["tags"] = tag
    with connect(config, url) as client:
        done = client.publish(event)
    if json_wanted:
        emit(done)
    else:
        typer.echo(done["id"])
