"""The hot route on a real socket: the same answer either way, and no check that it jumps over."""

from __future__ import annotations

import re
import socket
import time

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.topics.http_fakes import live, make_cell, raw_exchange

PAGE = b"GET /v1/users/2/dashboard HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"
QUIETLY_S = 0.3  # until the server has nothing more to say


def exchange(*requests: bytes) -> tuple[bytes, int, int]:
    """(what came back, pages that were made, requests that took the long way), after a first page
    that makes the Host known."""
    server, pages, _ = make_cell()
    long_way = 0
    answer = server.app._answer

    async def count(*arguments):
        nonlocal long_way
        long_way += 1
        await answer(*arguments)

    with live(server.app) as port:
        raw_exchange(port, PAGE + b"\r\n", QUIETLY_S)
        pages.asked.clear()
        server.app._answer = count
        received = raw_exchange(port, b"".join(requests), QUIETLY_S)
    return received, len(pages.asked), long_way


def without_date(answer: bytes) -> bytes:
    return re.sub(rb"date: [^\r]*\r\n", b"", answer)


def test_both_ways_send_the_same_bytes():
    quick, made, long_way = exchange(PAGE + b"\r\n")
    assert (made, long_way) == (1, 0)
    slow, made, long_way = exchange(PAGE + b"Content-Length: 0\r\n\r\n")
    assert (made, long_way) == (1, 1)
    assert quick.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    heads = [sorted(without_date(each).split(b"\r\n")) for each in (quick, slow)]
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (PAGE.replace(b"127.0.0.1", b"evil.example"), 403),
        (PAGE + b"Host: 127.0.0.1:80\r\n", 403),
        (PAGE.replace(b"Host: 127.0.0.1:80\r\n", b""), 403),
        (PAGE + b"Origin: http://evil.example\r\n", 403),
        (PAGE.replace(b"GET", b"PUT"), 405),
        (PAGE.replace(b"GET", b"HEAD"), 405),
        (PAGE.replace(b"dashboard", b"dashboard?limit=0"), 400),
        (PAGE.replace(b"dashboard", b"dashboard?limit=5&limit=5"), 400),
        (PAGE.replace(b"users/2", b"users/x"), 400),
        (PAGE.replace(b"users/2", b"users/\xff"), 400),
        (PAGE.replace(b"users/2", b"users/2/3"), 404),
        (PAGE.replace(b"1.1", b"1.0"), 200),
        (PAGE + b"Connection: close\r\n", 200),
        (PAGE + b"Connection: upgrade\r\nUpgrade: h2c\r\n", 200),
        (PAGE + b"Expect: 100-continue\r\n", 200),
        (PAGE + b"X-Request-ID: r1\r\n", 200),
        (PAGE.replace(b"users/2", b"users/%32"), 200),
    ],
)
def test_what_is_not_plain_takes_the_long_way(request_bytes, status):
    received, made, long_way = exchange(request_bytes + b"\r\n")
    assert re.search(rb"^HTTP/1\.1 %d " % status, received), received[:80]
    assert made == (status == 200)
    assert long_way == 1 or b"\xff" in request_bytes  # which the parser refuses


def test_a_body_that_comes_with_a_page_is_no_second_request():
    smuggled = b"GET /v1/users/3/dashboard HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"
    head = PAGE + b"Content-Length: %d\r\n\r\n" % len(smuggled)
    received, made, _ = exchange(head, smuggled)
    assert (made, received.count(b"HTTP/1.1 ")) == (1, 1)


def test_of_many_in_one_piece_one_is_quick_and_all_come_in_order():
    requests = [PAGE.replace(b"users/2", b"users/%d" % user) + b"\r\n" for user in range(9)]
    received, made, long_way = exchange(*requests)
    assert re.findall(rb'"reader": "(\d)"', received) == [b"%d" % user for user in range(9)]
    assert (made, long_way) == (9, 8)


def test_a_fault_in_the_quick_way_is_answered_by_the_long_one():
    server, pages, _ = make_cell()
    with live(server.app) as port:
        raw_exchange(port, PAGE + b"\r\n", QUIETLY_S)
        pages.boom = True
        received = raw_exchange(port, PAGE + b"\r\n", QUIETLY_S)
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in received


def test_quick_pages_are_counted_like_the_others():
    server, _, _ = make_cell()
    with live(server.app) as port:
        for _ in range(3):
            raw_exchange(port, PAGE + b"\r\n", QUIETLY_S)
        lines = raw_exchange(port, PAGE.replace(b"v1/users/2/dashboard", b"metrics") + b"\r\n", 1)
    labels = b'cell="c0",role="cell",route="dashboard"'
    assert b"firecell_http_requests_total{%b,status=\"2xx\"} 3.0" % labels in lines


def test_a_head_in_pieces_is_whole_and_a_slow_one_has_its_clock(monkeypatch):
    monkeypatch.setattr("topics.http_bounds.HTTP_HEADER_WAIT_S", 0.3)
    received, made, long_way = exchange(PAGE + b"\r\n", PAGE)  # the second never ends
    assert (made, long_way) == (1, 0)
    assert received.count(b"HTTP/1.1 200 OK") == 1


# --- what the parser has seen is not parsed again ---


class Wire:
    """One connection to a cell: how often its parser was asked, and what came back."""

    def __init__(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parsed = 0
        feed = HttpToolsProtocol.data_received

        def count(protocol: HttpToolsProtocol, data: bytes) -> None:
            self.parsed += 1
            feed(protocol, data)

        monkeypatch.setattr(HttpToolsProtocol, "data_received", count)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def ask(self, *pieces: bytes, answers: int = 1) -> bytes:
        received = b""
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(0.05)
        while received.count(b"HTTP/1.1 ") < answers or not received.endswith(b"}"):
            more = self.socket.recv(65_536)
            if not more:
                break
            received += more
        return received


@pytest.fixture
def wire(monkeypatch):
    server, _, _ = make_cell()
    with live(server.app) as port:
        raw_exchange(port, PAGE + b"\r\n", QUIETLY_S)  # makes the Host known
        wire = Wire(port, monkeypatch)
        yield wire
        wire.socket.close()


def page_of(user, *more):
    return b"".join([PAGE.replace(b"users/2", b"users/%d" % user), *more, b"\r\n"])


def test_the_second_page_of_a_connection_is_not_parsed_and_the_same(wire):
    answers = [without_date(wire.ask(page_of(2))) for _ in range(4)]
    assert answers == [answers[0]] * 4 and wire.parsed == 1
    assert b'"reader": "3"' in wire.ask(page_of(3)) and wire.parsed == 1


def test_another_head_is_parsed_and_the_known_one_stays_known(wire):
    wire.ask(page_of(2))
    wire.ask(page_of(3, b"X-Other: 1\r\n"))
    assert wire.parsed == 2
    wire.ask(page_of(4, b"X-Other: 1\r\n"))  # the last one that was quick
    wire.ask(page_of(5))
    assert wire.parsed == 3


@pytest.mark.parametrize("target", [b"/v1/users/2/dash board", b"/v1/users/2\x01/dashboard", b""])
def test_odd_targets_go_to_the_parser(wire, target):
    wire.ask(page_of(2))
    wire.socket.sendall(b"GET " + target + page_of(2)[len(b"GET /v1/users/2/dashboard") :])
    assert wire.socket.recv(65_536).startswith(b"HTTP/1.1 4") and wire.parsed == 2


def test_a_body_that_looks_like_a_known_request_is_a_body(wire):
    """Regression: an answer may be out before its request's body has come."""
    wire.ask(page_of(2))
    smuggled = page_of(3)
    received = wire.ask(page_of(2, b"Content-Length: %d\r\n" % len(smuggled)), smuggled)
    assert received.count(b"HTTP/1.1 ") == 1 and b'"reader": "3"' not in received
    assert b'"reader": "4"' in wire.ask(page_of(4))


def test_a_known_request_inside_of_another_head_is_a_header(wire):
    """Regression: a head that began behind another request in one piece was jumped over."""
    wire.ask(page_of(2))
    begun = b"GET /v1/users/4/dashboard HTTP/1.1\r\nX: "
    received = wire.ask(page_of(3) + begun, page_of(5), answers=2)
    assert re.findall(rb'"reader": "(\d)"', received) == [b"3", b"4"]
    assert b'"reader": "6"' in wire.ask(page_of(6))


def test_only_a_piece_that_the_parser_met_between_requests_makes_known(wire):
    """Regression: the end of a head that had begun before taught another end than was parsed."""
    wire.ask(b"GET /v1/users/2/dashboard HTTP/1.1\r\nX: ", page_of(2))
    wire.ask(page_of(3))
    assert wire.parsed == 3
    wire.ask(page_of(4))
    assert wire.parsed == 3


def test_known_requests_in_one_piece_and_in_halves(wire):
    wire.ask(page_of(2))
    received = wire.ask(page_of(3) + page_of(4) + page_of(5), answers=3)
    assert re.findall(rb'"reader": "(\d)"', received) == [b"3", b"4", b"5"]
    whole = page_of(6)
    assert b'"reader": "6"' in wire.ask(whole[:20], whole[20:])
    assert b'"reader": "7"' in wire.ask(page_of(7))


def test_a_connection_is_idle_since_its_last_page(monkeypatch):
    """The clock that began with a parsed request ends no connection that is in use."""
    server, _, _ = make_cell()
    with live(server.app, keep_alive_s=1) as port:
        raw_exchange(port, PAGE + b"\r\n", QUIETLY_S)
        wire = Wire(port, monkeypatch)
        started = time.monotonic()
        for _ in range(4):
            wire.ask(page_of(2))
            time.sleep(0.4)
        assert wire.parsed == 1
        assert wire.socket.recv(1) == b""
        assert 2 < time.monotonic() - started < 5
        wire.socket.close()
