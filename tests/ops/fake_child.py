"""A stand-in for a gateway or a cell, for tests of the supervisor.

fake_child.py DATA ROLE NAME MODE: serves /readyz; MODE says how it misbehaves.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from ops.children import die_with_parent

die_with_parent()

from starlette.applications import Starlette  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402

from topics.lifecycle import Lifecycle, bind, serve  # noqa: E402

data, role, name, mode = Path(sys.argv[1]), *sys.argv[2:]
(data / f"{role}-{name}.starts").open("a").write(f"{os.getpid()}\n")
starts = len((data / f"{role}-{name}.starts").read_text().splitlines())
if mode == "refuse" or (mode == "refuse-once" and starts == 1):
    print("firecell: the lock is held", file=sys.stderr)
    sys.exit(3)
if mode == "crash-once" and starts == 1:
    sys.exit(1)
if mode == "deaf":
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.run(["sleep", "0"], check=True)  # its children don't look for a parent
    time.sleep(60)

life = Lifecycle(role, name)


def readyz(_request: object) -> PlainTextResponse:
    return PlainTextResponse(life.reason or "ready", 503 if life.reason else 200)


def stopped() -> None:
    with (data / "stops").open("a") as file:
        file.write(f"{role}-{name}\n")


life.on_stop("tell", stopped)
app = Starlette(routes=[Route("/readyz", readyz)])
sys.exit(serve(app, life, listener=bind("127.0.0.1", 0), data_folder=data, start=life.ready))
