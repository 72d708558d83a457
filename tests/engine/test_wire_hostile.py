"""JSON that is broken, deep, ambiguous or out to hurt: refused, and nothing else happens."""

from __future__ import annotations

import pytest

from engine import limits
from engine.errors import BadInput
from engine.events import NO_ID, Post
from engine.wire import parse_event


def refused(text, field=None):
    """The error of a text that must be refused as malformed."""
    with pytest.raises(BadInput) as caught:
        parse_event(text if isinstance(text, bytes) else text.encode())
    assert type(caught.value) is BadInput
    assert caught.value.message
    assert field is None or caught.value.field == field


# --- texts ---


def test_nul_and_escapes_are_kept():
    text = b'{"type":"post","author":7,"text":"\\u0000\\"\\\\\\/\\n\\ud83d\\ude00"}'
    assert parse_event(text).text == '\x00"\\/\n\U0001f600'


@pytest.mark.parametrize(
    "inside",
    ["\\ud800", "\\udc00", "\\ud800x", "x\\udfffy", "\\ud800\\ud800\\udc00", "\\ude00\\ud83d"],
)
@pytest.mark.parametrize(
    "shape",
    ['{"type":"post","author":7,"text":"%s"}', '{"type":"post","author":7,"tags":["%s"]}',
     '{"type":"post","author":7,"%s":1}', '{"type":"%s"}', '{"type":"post","author":"%s"}',
     '{"type":"post","author":7,"at":"%s"}'],
)  # fmt: skip
def test_lone_surrogates(shape, inside):
    """They are no text, and no UTF-8 can hold them."""
    refused(shape % (inside + "........"))
    refused(shape % inside)


@pytest.mark.parametrize("inside", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"])
def test_broken_utf_8(inside):
    refused(b'{"type":"post","author":7,"text":"%b"}' % inside)
    refused(b'{"type":"post","author":7,"%b":1}' % inside)
    refused(b'{"type":"%b"}' % inside)


def test_raw_control_characters_and_a_byte_order_mark():
    refused(b'{"type":"post","author":7,"text":"a\x00b"}')
    refused(b'{"type":"post","author":7,"text":"a\nb"}')
    refused(b'\xef\xbb\xbf{"type":"post","author":7}')


# --- shapes ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "}",
        '{"type":"post"',
        '{"type":"post","author":"7"}x',
        "{}{}",
        "nul",
        "'",
        "\0",
    ],
)
def test_malformed(text):
    refused(text)


@pytest.mark.parametrize(
    "start",
    ["", '{"zz":', '{"type":"post","zz":', '{"type":"post","tags":', '{"tags":',
     '{"type":"post","author":', '{"type":', '{"author":7,"mentions":'],
)  # fmt: skip
@pytest.mark.parametrize("opener", ["[", '{"a":', "[[{},", '{"type":'])
def test_nesting_of_100_000(start, opener):
    count = min(100_000, (limits.EVENT_BYTES_MAX - 200) // len(opener))
    refused(start + opener * count)
    closed = {"[": "]", '{"a":': "}", "[[{},": "]]", '{"type":': "}"}[opener]
    count = (limits.EVENT_BYTES_MAX - 200) // (len(opener) + len(closed))
    text = start + opener * count + "1" + closed * count + (',"type":"post"}' if start else "")
    refused(text)


def test_duplicate_keys():
    """The last one counts, as in most JSON readers; a second type is refused: one event, one
    meaning."""
    assert parse_event(b'{"type":"post","author":"7","author":"8"}').author == 8
    for text in (
        b'{"type":"follow","type":"block","reader":"1","author":"2"}',
        b'{"type":"follow","reader":"1","author":"2","type":"block"}',
        b'{"reader":"1","type":"follow","author":"2","type":"unfollow"}',
    ):
        refused(text, "type")


def test_a_key_written_with_escapes_is_the_same_key():
    assert parse_event(b'{"\\u0074ype":"post","\\u0061uthor":7}') == Post(author=7, id=NO_ID)
