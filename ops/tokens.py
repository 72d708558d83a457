"""`firecell tokens create|list|revoke`: who may call from other machines."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from ops.options import Config, Json, emit, say, settings_of

_app = typer.Typer(no_args_is_help=True, help="Tokens: who may call, and what for.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="tokens")


@_app.command()
def create(
    scope: Annotated[
        list[str], typer.Option(help="publish, stream, read, marker or admin; may be repeated.")
    ],
    name: Annotated[str, typer.Option(help="What to call it; else made from its hash.")] = "",
    config: Config = None,
    json_wanted: Json = False,
) -> None:
    """Make a token and print it, this once: only its hash is kept.

    \b
    Examples:
      firecell tokens create --scope read --scope marker --name website
    """
    from engine.times import format_ms
    from topics.tokens import create_token

    file = settings_of(config).tokens.file
    text, token = create_token(file, scope, name, format_ms(time.time_ns() // 1_000_000))
    if json_wanted:
        emit({"token": text, "name": token.name, "scopes": token.scopes})
        return
    typer.echo(text)
    say(f"{token.name}: {', '.join(token.scopes)}. It is not shown again; revoke it by its name.")


@_app.command("list")
def list_(config: Config = None, json_wanted: Json = False) -> None:
    """List the tokens: names and scopes, never the tokens themselves.

    \b
    Examples:
      firecell tokens list
    """
    from topics.tokens import read_tokens

    kept = read_tokens(settings_of(config).tokens.file)
    if json_wanted:
        emit([{k: v for k, v in asdict(token).items() if k != "sha256"} for token in kept])
        return
    for token in kept:
        typer.echo(f"{token.name:<24} {token.created}  {', '.join(token.scopes)}")
    if not kept:
        say("no tokens; `firecell tokens create --scope S` makes one")


@_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Its name, as `tokens list` shows it.")],
    config: Config = None,
    json_wanted: Json = False,
) -> None:
    """Forget a token: running processes refuse it from their next request on.

    \b
    Examples:
      firecell tokens revoke website
    """
    from topics.tokens import revoke_token

    token = revoke_token(settings_of(config).tokens.file, name)
    if json_wanted:
        emit({"revoked": token.name})
    else:
        typer.echo(f"{token.name} is revoked")
