"""A supervisor over fake children, as a process: supervising.py DATA ROLE-NAME=MODE ..."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from ops.supervisor import ChildSpec, Supervisor
from topics.lifecycle import Lifecycle


async def main() -> int:
    data = Path(sys.argv[1])
    child = str(Path(__file__).with_name("fake_child.py"))
    specs = []
    for argument in sys.argv[2:]:
        title, mode = argument.split("=")
        role, name = title.split("-")
        command = (sys.executable, "-P", child, str(data), role, name, mode)
        specs.append(ChildSpec(role, name, command))
    life = Lifecycle("up", "main")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, life.handle_signal, number)
    supervisor = Supervisor(
        specs,
        data_folder=data,
        lifecycle=life,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    return await supervisor.run(lambda urls: print(json.dumps(urls), flush=True))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
