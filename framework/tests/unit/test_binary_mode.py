"""What foreign producers send in binary mode reads like what Millstream writes."""

from __future__ import annotations

import base64

import msgspec
import pytest
from millstream.binary_mode import STRUCTURED, is_structured, structured
from millstream.errors import Undecodable
from millstream.message import decode_message

ATTRIBUTES = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "https://shop.example",
    "type": "OrderPlaced",
    "subject": "bücher",
    "time": "2026-01-02T03:04:05Z",
}


def test_json_data_is_embedded() -> None:
    message = decode_message(structured(ATTRIBUTES, b'{"total": 3}', "application/json"))
    assert (message.id, message.source, message.type, message.subject) == (
        "e-1", "https://shop.example", "OrderPlaced", "bücher",
    )  # fmt: skip
    assert msgspec.json.decode(message.data) == {"total": 3}


@pytest.mark.parametrize(("data", "kind"), [(b"\xff\x00", "application/octet-stream"), (b"{", "application/json")])
def test_other_data_keeps_its_bytes(data: bytes, kind: str) -> None:
    message = decode_message(structured(ATTRIBUTES, data, kind))
    assert message.data_base64 is not None
    assert base64.b64decode(message.data_base64) == data


def test_names_are_read_whatever_their_case_and_our_numbers_are_numbers() -> None:
    upper = {name.upper(): value for name, value in ATTRIBUTES.items()} | {"DataVersion": "3"}
    assert decode_message(structured(upper, b"1", None)).dataversion == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("subject", "half \ud800"), ("half\ud800", "x"), ("dataversion", "9" * 20), ("dataversion", "9" * 5000)],
)
def test_no_attribute_is_such_that_nothing_comes_out(name: str, value: str) -> None:
    """A reader would meet the same record again and again."""
    assert structured({**ATTRIBUTES, name: value}, b"1", None)


def test_a_lacking_attribute_is_left_to_the_reader() -> None:
    with pytest.raises(Undecodable, match="id"):
        decode_message(structured({"specversion": "1.0", "source": "x", "type": "T"}, b"1", None))


@pytest.mark.parametrize(
    ("content_type", "whole"),
    [(STRUCTURED, True), ("Application/CloudEvents+JSON", True), (None, True), ("application/json", False)],
)
def test_the_content_type_tells_the_mode(content_type: str | None, whole: bool) -> None:
    assert is_structured(content_type) is whole
