"""A Firecell for one command: when none runs on the data folder, `up` runs as long as the command.

So a command opens the stores by the very path that a deployment does, and whoever comes second
finds it by its run files. Its log goes where `up` puts it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType

from engine.errors import Unavailable
from engine.limits import DRAIN_S
from ops.children import child_command, child_environment
from ops.client import Client
from ops.options import say


class LocalClient(Client):
    """A client of an `up` of its own, which it stops when it is closed."""

    def __init__(self, config: Path | None, token: str) -> None:
        say("no Firecell runs here: starting one for this command (`firecell up` keeps one)")
        command = [*child_command("up", "--json", "--port", "0")]
        if config is not None:
            command += ["--config", str(config)]
        # A session of its own: Ctrl-C ends the command, and the command ends `up`, in this order.
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env=child_environment(os.environ),
            start_new_session=True,
        )
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        try:
            url = str(json.loads(line)["url"])
        except (ValueError, KeyError):
            self._stop()
            raise Unavailable("`firecell up` did not become ready; its reason is above") from None
        super().__init__(url, token)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
