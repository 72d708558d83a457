"""The Java helper as one long-lived process: tables, files to adopt, what Thrift 1 cannot do.

The command is the caller's (ops knows where HBase's jars are). The helper reads commands on its
standard input, words separated by tabs, and answers `ready`, `ok`, `ok TAB result` or
`error TAB text`, a line each; its log goes to standard error, whose end is kept for messages.

What a helper that was killed left staged on HBase's file system is swept away by the next one.
Commands may come from any thread, one runs at a time. The process starts with the first command,
again after it has ended, and ends with its standard input. A command that takes too long is fatal
to the process: its answer would be taken for the next one's.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from typing import IO

from cells.hbase_schema import TABLES
from engine import limits
from engine.errors import DiskFull, Misconfigured, Unavailable

_SIZE = struct.Struct(">i")
_FULL = ("QuotaExceeded", "could only be written to 0 of", "No space left", "OutOfSpace")
_FORBIDDEN = ("AccessControlException", "AccessDenied", "Permission denied")
Chunks = Iterable[bytes | memoryview]


class Helper:
    """Starts `command` when it is first needed. Raises Unavailable, Misconfigured."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._diary: IO[bytes] | None = None
        self._swept = False
        self._lock = threading.Lock()

    def create(self, cell: str, names: Iterable[str]) -> None:
        """Create tables of a cell with their splits, encodings and bloom filters, all at once; one
        that is there stays as it is."""
        for name in names:
            table = TABLES[name]
            splits = ",".join(split.hex() for split in table.splits)
            settings = [f"{setting}={value}" for setting, value in table.settings.items()]
            words = ["begin", f"{cell}.{name}", "1", table.encoding, table.bloom, splits]
            self.command(*words, *([",".join(settings)] if settings else []))
        self.command("await")

    def stage(self, files: Sequence[Chunks]) -> str:
        """Write files, each given by its bytes in parts, to a new folder on HBase's file system;
        its name. Raises DiskFull, Unavailable."""
        with self._lock:
            process = self._started()
            if not self._swept:
                self._ask(process, "sweep", str(limits.HBASE_STAGED_S))
                self._swept = True
            timer = threading.Timer(limits.HBASE_LOAD_S, process.kill)
            timer.start()
            try:
                self._send(process, f"stage\t{len(files)}\n".encode())
                for chunks in files:
                    for chunk in chunks:
                        self._send(process, _SIZE.pack(len(chunk)))
                        self._send(process, chunk)
                    self._send(process, _SIZE.pack(0))
                return self._answer(process, f"stage {len(files)} files")
            except BaseException:
                self._end()  # it may stand in the middle of a file
                raise
            finally:
                timer.cancel()

    def adopt(self, table: str, folder: str) -> None:
        """Let `table` adopt the files of a staged folder, which is gone then whatever happened;
        durable on return. When it raises, some of the files may be adopted: stage and adopt them
        all again."""
        self.command("adopt", table, folder)

    def command(self, *words: str) -> str:
        """Run a command without data; its result."""
        with self._lock:
            return self._ask(self._started(), *words)

    def commands(self, commands: Sequence[Sequence[str]]) -> None:
        """Run commands without data, some at a time, in any order; all have ended on return."""
        if commands:
            words: list[str] = []
            for command in commands:
                words += [*command, "&"]
            with self._lock:
                self._ask(self._started(), *words[:-1], within_s=limits.HBASE_TABLES_S)

    def files(self, table: str) -> int:
        """How many files the region with the most has: what its readers must look into."""
        return int(self.command("files", table))

    def _ask(self, process: subprocess.Popen[bytes], *words: str, within_s: float = 0) -> str:
        timer = threading.Timer(within_s or limits.HBASE_LOAD_S, process.kill)
        timer.start()
        try:
            self._send(process, ("\t".join(words) + "\n").encode())
            return self._answer(process, " ".join(words[:2]))
        finally:
            timer.cancel()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._swept = False
        self._diary = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._diary,
                start_new_session=True,  # Ctrl-C is for us: we close its input when we are done
            )
        except OSError as error:
            self._end()
            raise Misconfigured(
                f"cannot run HBase's Java helper ({error}): name a JDK and HBase's class path"
            ) from error
        timer = threading.Timer(limits.HBASE_HELPER_S, self._process.kill)
        timer.start()
        try:
            self._answer(self._process, "connect to HBase", expected="ready")
        finally:
            timer.cancel()
        return self._process

    def _send(self, process: subprocess.Popen[bytes], data: bytes | memoryview) -> None:
        try:
            if process.stdin is not None:
                process.stdin.write(data)
        except OSError as error:
            raise Unavailable(f"HBase's Java helper ended: {self._last_words()}") from error

    def _answer(self, process: subprocess.Popen[bytes], what: str, expected: str = "ok") -> str:
        try:
            if process.stdin is not None:
                process.stdin.flush()
        except OSError as error:
            raise Unavailable(f"HBase's Java helper ended: {self._last_words()}") from error
        line = process.stdout.readline() if process.stdout is not None else b""
        kind, _, text = line.decode(errors="replace").rstrip("\n").partition("\t")
        if kind == expected:
            return text
        if not line:
            text = f"it ended or took too long: {self._last_words()}"
        if kind != "error":
            self._end()
        raise _named(what, text or repr(line))

    def _last_words(self) -> str:
        if self._diary is None:
            return "it said nothing"
        size = self._diary.seek(0, 2)
        self._diary.seek(max(0, size - limits.LOG_TAIL_BYTES))
        lines = self._diary.read().decode(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            process.wait()
        diary, self._diary = self._diary, None
        if diary is not None:
            diary.close()

    def close(self) -> None:
        """End the process. Idempotent."""
        with self._lock:
            self._end()


def _named(what: str, text: str) -> Unavailable:
    """Our error for what Hadoop or HBase said."""
    if any(word in text for word in _FULL):
        return DiskFull(
            f"HBase's file system has no room to {what}: {text}; free some, or raise its quota"
        )
    if any(word in text for word in _FORBIDDEN):
        return Unavailable(
            f"HBase's Java helper may not {what}: {text}; its user needs the right to write under"
            " firecell-staging in HBase's root folder (docs/deploy.md)"
        )
    return Unavailable(f"HBase's Java helper could not {what}: {text}")
