"""The real parts' jars, from Maven artifacts into a cache folder: one lib folder per part.

A part is complete when its stamp has the checksum of the pom that it was made from; an interrupted
download is made anew. Two processes may ask at once: a lock per part, the second one waits.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from engine.errors import Precondition, Unavailable
from engine.limits import LOG_TAIL_BYTES
from engine.limits_stack import STACK_DOWNLOAD_S
from topics.locks import FileLock

KAFKA = "4.1.1"
HBASE = "2.6.1"
HADOOP = "3.3.5"  # what HBase 2.6.1-hadoop3 is built on; its jars come along with HBase's
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_STAMP = "complete"
_SAY_EVERY = 20  # files between two lines of progress


class Artifact:
    """One dependency of a pom: coordinates, and what it must not bring along."""

    def __init__(self, name: str, *, kind: str = "jar", without: tuple[str, ...] = ()) -> None:
        self.group, self.artifact, self.version = name.split(":")
        self.kind = kind
        self.without = without

    def xml(self) -> str:
        """The dependency element."""
        exclusions = "".join(
            f"<exclusion>{_tag('groupId', group)}{_tag('artifactId', '*')}</exclusion>"
            for group in self.without
        )
        return (
            f"<dependency>{_tag('groupId', self.group)}{_tag('artifactId', self.artifact)}"
            f"{_tag('version', self.version)}{_tag('type', self.kind)}"
            f"<exclusions>{exclusions}</exclusions></dependency>\n"
        )


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


_ON_HADOOP_3 = f"{HBASE}-hadoop3"
PARTS = {
    f"kafka-{KAFKA}": (
        Artifact(f"org.apache.kafka:kafka_2.13:{KAFKA}"),
        # Without a binding of slf4j the broker says nothing.
        Artifact("org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"),
    ),
    f"hbase-{HBASE}": (
        Artifact(f"org.apache.hbase:hbase-server:{_ON_HADOOP_3}"),
        Artifact(f"org.apache.hbase:hbase-mapreduce:{_ON_HADOOP_3}"),
        # PerformanceEvaluation, the yardstick of `bench compare`, lies in the tests.
        Artifact(f"org.apache.hbase:hbase-mapreduce:{_ON_HADOOP_3}", kind="test-jar"),
        Artifact(
            f"org.apache.hbase:hbase-testing-util:{_ON_HADOOP_3}", without=("org.apache.hadoop",)
        ),
        # There is no Thrift server "-hadoop3": it alone, without the Hadoop 2 that it asks for.
        Artifact(f"org.apache.hbase:hbase-thrift:{HBASE}", without=("*",)),
        Artifact("org.apache.thrift:libthrift:0.14.1", without=("org.apache.tomcat.embed",)),
    ),
}
KAFKA_PART = f"kafka-{KAFKA}"
HBASE_PART = f"hbase-{HBASE}"


def pom(part: str) -> str:
    """The pom.xml of one part."""
    artifacts = "".join(artifact.xml() for artifact in PARTS[part])
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0">'
        "<modelVersion>4.0.0</modelVersion><groupId>firecell.stack</groupId>"
        f"{_tag('artifactId', part)}<version>1</version><packaging>pom</packaging>\n"
        f"<dependencies>\n{artifacts}</dependencies></project>\n"
    )


def libraries(cache: Path, part: str) -> Path:
    """The folder of a part's jars, there or not."""
    return cache / part / "lib"


def is_complete(cache: Path, part: str) -> bool:
    """Whether the jars are there, made from the pom of today."""
    try:
        return (cache / part / _STAMP).read_text() == _checksum(part)
    except OSError:
        return False


def _checksum(part: str) -> str:
    return hashlib.sha256(f"{_PLUGIN}\n{pom(part)}".encode()).hexdigest()


def java() -> str:
    """The JDK's java: JAVA_HOME's, else the first on the path. Precondition tells what to type."""
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").exists():
        return str(Path(home) / "bin" / "java")
    return _need("java", "openjdk-17-jdk-headless")


def redis_server() -> str:
    """The system's redis-server. Precondition tells what to type."""
    return _need("redis-server", "redis-server")


def _need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Precondition(
            f"{program} is not installed. On Debian or Ubuntu type: sudo apt-get install {package}"
        )
    return found


def fetch(cache: Path, part: str, say: Callable[[str], None]) -> Path:
    """The folder of a part's jars, downloaded if need be (a few minutes; `say` tells).

    Precondition when Maven is missing, Unavailable when it failed: its last words are told."""
    if is_complete(cache, part):
        return libraries(cache, part)
    maven = _need("mvn", "maven")
    cache.mkdir(parents=True, exist_ok=True)
    refusal = f"another process has been downloading {part} into {cache} for too long"
    with FileLock.acquire(cache / f"{part}.lock", STACK_DOWNLOAD_S, refusal):
        if not is_complete(cache, part):
            folder = cache / part
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "pom.xml").write_text(pom(part))
            say(f"downloading {part} into {folder} (once; a minute or a few)")
            _run_maven(maven, folder, part, say)
            (folder / _STAMP).write_text(_checksum(part))
    return libraries(cache, part)


def _run_maven(maven: str, folder: Path, part: str, say: Callable[[str], None]) -> None:
    command = [
        maven, "--batch-mode", "--strict-checksums", "--file", str(folder / "pom.xml"), _PLUGIN,
        "-DincludeScope=runtime", f"-DoutputDirectory={folder / 'lib'}",
    ]  # fmt: skip
    diary = folder / "maven.log"
    started = time.monotonic()
    with diary.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _watch(process, diary, part, started, say)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        words = diary.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        lines = [line for line in words.splitlines() if "ERROR" in line] or words.splitlines()
        raise Unavailable(
            f"Maven could not download {part}: {' '.join(lines[:3])}; all of it is in {diary}"
        )
    say(f"{part}: {len(list((folder / 'lib').glob('*.jar')))} jars, {_since(started)}")


def _watch(
    process: subprocess.Popen[bytes],
    diary: Path,
    part: str,
    started: float,
    say: Callable[[str], None],
) -> None:
    told = 0
    while True:
        try:
            process.wait(1)
            return
        except subprocess.TimeoutExpired:
            files = diary.read_bytes().count(b"Downloaded from")
            if files >= told + _SAY_EVERY:
                told = files
                say(f"{part}: {files} files, {_since(started)}")
            if time.monotonic() - started > STACK_DOWNLOAD_S:
                raise Unavailable(
                    f"Maven is not done with {part} after {STACK_DOWNLOAD_S} s; see {diary}"
                ) from None


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"
