"""The command line: which commands there are, and how their errors end the process.

Every command lives in `ops/<file>.py` with `register(app)`; heavy imports happen inside of the
command, so that `--help` answers at once. Main thread only.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

import click
import typer

from engine.errors import FirecellError
from engine.version import VERSION

COMMANDS = (
    "up", "demo", "init", "config", "tokens",
    "post", "follow", "publish", "import_", "dashboard", "tail", "status", "explain",
    "groups", "rewind",
    "snapshot", "replay", "rebuild", "verify", "quarantine",
    "gateway", "cell", "stack", "bench_",
)  # fmt: skip
_INTERRUPTED = 128 + signal.SIGINT  # what a shell reports after Ctrl-C
_HELP = """Firecell: a firehose that can be rewound, cells, and dashboards.

Data on stdout, talk on stderr. Exit codes: 0 done, 1 failed, 2 usage or configuration,
3 precondition (a lock is held, a port is taken), 4 not found.

\b
Start here:
  firecell up                     everything on this machine, in ./data
  firecell post 7 "hello"         user 7 posts
  firecell follow 1 7             user 1 follows user 7
  firecell dashboard 1            what user 1 sees
"""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"firecell {VERSION}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The application with every command whose file is there."""
    app = typer.Typer(
        name="firecell",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback()
    def root(
        _version_wanted: bool = typer.Option(
            False, "--version", help="Say the version.", is_eager=True, callback=_version
        ),
    ) -> None:
        pass

    for name in COMMANDS:
        importlib.import_module(f"ops.{name}").register(app)
    return app


def run_command(arguments: list[str]) -> int:
    """Run one command; the exit code. Says on stderr what went wrong."""
    try:
        result = build_app()(arguments, prog_name="firecell", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except FirecellError as error:
        return _report(error.message, error.exit_code, error, "--json" in arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        typer.echo("firecell: interrupted", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (| head): no error, and nothing more to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        typer.echo(f"firecell: {what}", err=True)
        return 1


def _report(message: str, exit_code: int, error: FirecellError, as_json: bool) -> int:
    if as_json:
        document = {"error": type(error).__name__, "message": message, "exit_code": exit_code}
        typer.echo(json.dumps({**error.extra, **document}, default=str), err=True)
    else:
        typer.echo(f"firecell: {message}", err=True)
    return exit_code
