"""`firecell dashboard USER`: what a user sees, newest first."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from engine.limits import PAGE_POSTS_DEFAULT, PAGE_POSTS_MAX
from ops.options import Config, Json, Url, emit, printable, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard")(dashboard)


def dashboard(
    user: Annotated[str, typer.Argument(help="Whose dashboard.")],
    pages: Annotated[int, typer.Option(min=1, help="How many pages to walk.")] = 1,
    limit: Annotated[
        int, typer.Option(min=1, max=PAGE_POSTS_MAX, help="Posts of a page.")
    ] = PAGE_POSTS_DEFAULT,
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Show a user's dashboard, newest first. With --json, one page a line, as the server gave it.

    \b
    Examples:
      firecell dashboard 1
      firecell dashboard 1 --pages 5 --limit 100 --json
    """
    from ops.client import connect

    cursor = None
    shown = 0
    with connect(config, url) as client:
        for _ in range(pages):
            page = client.get(
                f"/v1/users/{quote(user, safe='')}/dashboard", limit=limit, cursor=cursor
            )
            shown += len(page["posts"])
            if json_wanted:
                emit(page)
            else:
                _print(page)
            cursor = page["next"]
            if cursor is None:
                break
    if not json_wanted and not shown:
        say(f"nothing in the dashboard of {user}")
    if not json_wanted and cursor is not None:
        say("more with --pages")


def _print(page: dict[str, Any]) -> None:
    for post in page["posts"]:
        new = " " if post.get("seen") else "*"
        text = printable(post["text"])
        typer.echo(f"{new} {post['at']}  {post['author']:>8}  {text}  [{post['id']}]")
    for gap in page.get("gaps", []):
        say(f"gap: {gap['from']} to {gap['to']} is not covered: {gap['cause']}")
