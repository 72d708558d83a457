"""`firecell explain author ID`: pushed or pulled, in each cell, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ops.options import Config, Json, Url, emit, printable, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(no_args_is_help=True, help="What was decided about a user, and why.")
    group.command("author")(author)
    app.add_typer(group, name="explain")


def author(
    author_id: Annotated[str, typer.Argument(metavar="ID", help="The author's user id.")],
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Show whether an author's posts are pushed into inboxes or pulled by pages, cell by cell.

    An author with more followers in a cell than its push_followers_max is pulled there, from a
    recorded position on, until they are fewer than 80% of it.

    \b
    Examples:
      firecell explain author 7
      firecell explain author 7 --json
    """
    from engine.wire import parse_user
    from ops.client import connect

    user = parse_user(author_id, "ID")
    with connect(config, url) as client:
        document = client.get(f"/v1/admin/authors/{user}")
    if json_wanted:
        emit(document)
        return
    for cell in document.get("cells") or []:
        _show_cell(cell)
    for missing in document.get("missing") or []:
        say(f"cell {missing.get('cell')} does not answer: {missing.get('cause')}")


def _show_cell(cell: dict[str, Any]) -> None:
    """One cell: a line of what holds now, one of the saving, a line per interval."""
    title = f"cell {cell.get('cell')}"
    typer.echo(f"{title:<16} {cell.get('now')}: {printable(str(cell.get('why')))}")
    followers = f"{cell.get('followers', 0):,} followers at home here"
    saved = f"{cell.get('saved_inbox_writes', 0):,} inbox writes saved since the cell's start"
    typer.echo(f"{'':<16} {followers}; {saved}, {cell.get('saved_per_post', 0):,} with each post")
    for interval in cell.get("intervals") or []:
        typer.echo(f"{'':<16} {_interval(interval)}")


def _interval(interval: dict[str, Any]) -> str:
    began = (
        f"pulled from offset {interval['from_offset']:,}, {interval['from']}"
        f" ({interval['from_followers']:,} followers)"
    )
    if interval["to_offset"] is None:
        return f"{began}, on"
    return (
        f"{began}, to offset {interval['to_offset']:,}, {interval['to']}"
        f" ({interval['to_followers']:,} followers)"
    )
