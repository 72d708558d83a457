"""A gateway that remembers what it was asked, for tests of the commands."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROBLEM = "application/problem+json"


class FakeGateway:
    """`events`: what was published. `answers`: path -> (status, document) for GET.
    `failures`: how many requests to answer with 503 first."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.batches: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.failures = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, event: Any) -> dict[str, Any]:
        if not isinstance(event, dict) or event.get("author") == "bad":
            return {"error": {"status": 400, "detail": "author: no id", "field": "author"}}
        self.events.append(event)
        return {"id": str(len(self.events)), "position": "0:1", "at": "2026-01-31T12:00:00.000Z"}


def _handler(fake: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            if status == 503:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            fake.headers.append(dict(self.headers))
            fake.paths.append(self.path)
            unknown = {"type": "urn:firecell:problem:not-found", "detail": f"no {self.path}"}
            status, document = fake.answers.get(self.path, (404, unknown))
            self.answer(status, json.dumps(document).encode())

        def do_POST(self) -> None:
            fake.headers.append(dict(self.headers))
            body = self.rfile.read(int(self.headers["content-length"]))
            if fake.failures:
                fake.failures -= 1
                self.answer(
                    503, b'{"type":"urn:firecell:problem:unavailable","detail":"busy"}', PROBLEM
                )
            elif self.headers["content-type"] == "application/x-ndjson":
                lines = body.splitlines()
                fake.batches.append(len(lines))
                results = [
                    json.dumps(fake.publish(_parsed(line)), separators=(",", ":")) for line in lines
                ]
                self.answer(200, "".join(r + "\n" for r in results).encode())
            else:
                result = fake.publish(json.loads(body))
                error = result.get("error")
                if error:
                    error["type"] = "urn:firecell:problem:bad-input"
                self.answer(400 if error else 201, json.dumps(error or result).encode())

    return Handler


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
