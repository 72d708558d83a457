"""`firecell stack up|down|status`: a real Kafka, HBase and Redis on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.options import Config, Json, emit, say, settings_of

if TYPE_CHECKING:
    from ops.stack_plan import Ports
    from ops.stack_run import Stack
    from ops.stack_status import Condition

_app = typer.Typer(
    no_args_is_help=True, help="Real parts on this machine: Kafka, HBase on HDFS, Redis."
)

Folder = Annotated[
    Path | None,
    typer.Option(help="Data, logs and process files of the stack; else DATA FOLDER/stack."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="stack")


@_app.command()
def up(
    folder: Folder = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where the jars are kept; else .cache/stack beside data.")
    ] = None,
    light: Annotated[
        bool | None, typer.Option("--light/--hdfs", help="HBase on the local file system.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="redis, kafka, hbase or thrift, and what it needs; may be repeated."),
    ] = None,
    port: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PORT", help="One port; may be repeated.")
    ] = None,
    port_base: Annotated[
        int | None, typer.Option(help="Consecutive ports from this one instead of the usual ones.")
    ] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Ports that are free.")] = False,
    heap: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MB", help="One heap; may be repeated.")
    ] = None,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay, and start again what ends; all stops with this process."
        ),
    ] = False,
    config: Config = None,
    json_wanted: Json = False,
) -> None:
    """Start Kafka, HBase on HDFS with its Thrift server, and Redis; return when all answer.

    All of them listen on loopback only and stay until `stack down`; their data stay after that.
    What has crashed meanwhile, the same command starts again; with --foreground that needs nobody.
    The first time some 250 jars are downloaded with Maven. Ports, heaps and the kind of file
    system are remembered. A taken port is an error; a server that this stack did not start is
    never touched. With --light, HBase loses its last writes when it is killed.

    \b
    Examples:
      firecell stack up
      firecell stack up --only kafka --only redis
      firecell stack up --free-ports --light --folder data/try
      firecell stack up --port kafka=19092 --heap hbase=2048
    """
    from engine.errors import BadInput
    from ops.stack_run import Stack

    if sum((bool(port), port_base is not None, free_ports)) > 1:
        raise BadInput("choose one of --port, --port-base and --free-ports", "port")
    ports: Ports | None = "free" if free_ports else port_base
    if port:
        ports = _numbers(port, "port")
    stack = Stack(
        _folder(folder, config), cache=cache, ports=ports, light=light, say=say,
        heaps_mb=_numbers(heap or [], "heap"), servers=only or None,
    )  # fmt: skip
    from ops.stack_watch import stay  # before the start: nothing slow lies between up and stay

    _interruptible()
    stack.up(tied=foreground)
    if foreground:
        stay(stack, lambda: _announce(stack, json_wanted), say)
    else:
        _announce(stack, json_wanted)


def _announce(stack: Stack, json_wanted: bool) -> None:
    if json_wanted:
        helper = str(stack.helper) if "hbase" in stack.urls else None
        document = {"folder": str(stack.folder), "urls": stack.urls, "helper": helper}
        emit({**document, "ports": stack.ports})
    else:
        for name, url in stack.urls.items():
            typer.echo(f"{name:<6} {url}")
        if "hbase" in stack.urls:
            typer.echo(f"helper {stack.helper}")
    sys.stdout.flush()


@_app.command()
def down(folder: Folder = None, config: Config = None, json_wanted: Json = False) -> None:
    """Stop what `stack up` started, in the right order; the data stay.

    \b
    Examples:
      firecell stack down
    """
    stack = _existing(folder, config)
    killed = stack.down()
    if json_wanted:
        emit({"folder": str(stack.folder), "killed": killed})


@_app.command()
def status(folder: Folder = None, config: Config = None, json_wanted: Json = False) -> None:
    """Tell of each server: process, ports, heap, and whether it answers a real request.

    Exit 1 when not all of them are ready.

    \b
    Examples:
      firecell stack status --json
    """
    stack = _existing(folder, config)
    conditions = stack.status()
    if json_wanted:
        servers = [condition.document() for condition in conditions]
        emit({"folder": str(stack.folder), "urls": stack.urls, "servers": servers})
    else:
        typer.echo(f"{'server':<10}{'state':<9}{'process':>8}{'up':>8}{'MB':>7}{'max':>6}  ports")
        for condition in conditions:
            typer.echo(_line(condition))
    raise typer.Exit(0 if all(one.state == "ready" for one in conditions) else 1)


def _line(one: Condition) -> str:
    ports = ", ".join(f"{name} {number}" for name, number in one.ports.items())
    took = f" ({one.probe_ms:g} ms)" if one.probe_ms is not None else ""
    problem = f"; {one.problem}" if one.problem else ""
    return (
        f"{one.name:<10}{one.state:<9}{one.pid or '-':>8}{one.up_s:>7}s{one.resident_mb:>7}"
        f"{one.heap_mb:>6}  {ports}{took}{problem}"
    )


def _folder(folder: Path | None, config: Path | None) -> Path:
    return folder if folder is not None else settings_of(config).data.folder / "stack"


def _existing(folder: Path | None, config: Path | None) -> Stack:
    from ops.stack_run import Stack

    return Stack.existing(_folder(folder, config), say=say)


def _numbers(given: list[str], what: str) -> dict[str, int]:
    """NAME=NUMBER, NAME=NUMBER ..."""
    from engine.errors import BadInput

    found = {}
    for text in given:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal():
            raise BadInput(f"--{what} {text!r}: write NAME=NUMBER", what)
        found[name] = int(number)
    return found


def _interruptible() -> None:
    """TERM ends a start as Ctrl-C does: what was started is stopped again."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
