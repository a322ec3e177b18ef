"""What leaves for a RabbitMQ stream, and when (rule L2): driven by confirmations in orders that one broker alone never sends."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest
from millstream.errors import TransportUnavailable
from millstream.message import Record
from millstream.transports.rabbitmq import publishing
from millstream.transports.rabbitmq.connection import Closed
from millstream.transports.rabbitmq.publishing import _Call, _Confirming


class Wire:
    """In place of a channel: keeps what is sent."""

    def __init__(self) -> None:
        self.number = 1
        self.error: Closed | None = None
        self.connection = SimpleNamespace(largest_frame=131_072)
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def abandon(self) -> None:
        self.error = Closed("abandoned")

    def values(self) -> list[str]:
        """The bodies that were sent, in order; each is marked so that it can be found among the frames."""
        return [name.decode() for name in re.findall(rb"\[\[(.+?)\]\]", b"".join(self.sent))]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def confirming(wire: Wire) -> _Confirming:
    confirming = _Confirming("orders.0")
    confirming.channel = wire  # type: ignore[assignment]  # what it uses of a channel
    return confirming


def call(*names: str) -> Any:
    """A publish of records whose key is the letter of their name."""
    records = [Record(f"[[{name}]]".encode(), name[0] if name[0] != "-" else None) for name in names]
    return _Call(records, asyncio.get_running_loop().create_future())


async def test_a_record_leaves_when_the_previous_one_of_its_key_is_confirmed(
    wire: Wire, confirming: _Confirming
) -> None:
    """And the other keys, and records without a key, do not wait for it."""
    one = call("a1", "a2", "b1", "a3", "-1", "-2", "b2")
    confirming.start(one)
    assert wire.values() == ["a1", "b1", "-1", "-2"]
    confirming.confirmed(1, multiple=False)
    await asyncio.sleep(0)
    assert wire.values()[4:] == ["a2"]
    confirming.confirmed(5, multiple=True)
    await asyncio.sleep(0)
    assert wire.values()[5:] == ["b2", "a3"]
    assert one.prefix() == 3, "a3 is on its way"
    confirming.confirmed(7, multiple=True)
    assert one.done.done()
    assert one.error is None


async def test_a_confirmation_that_overtakes_another_one_ends_the_channel(wire: Wire, confirming: _Confirming) -> None:
    """The overtaken record was lost between two nodes. Nothing more may leave on this channel: the broker would take the
    record's repetition for a duplicate, and confirm it without storing it."""
    one = call("a1", "b1", "c1", "b2")
    confirming.start(one)
    confirming.confirmed(1, multiple=False)
    confirming.confirmed(3, multiple=False)
    assert one.done.done()
    assert isinstance(one.error, TransportUnavailable)
    assert one.prefix() == 1
    assert not confirming.usable
    await asyncio.sleep(0)
    assert wire.values() == ["a1", "b1", "c1"]


async def test_what_is_on_its_way_is_bounded_and_given_up_calls_send_nothing_more(
    wire: Wire, confirming: _Confirming
) -> None:
    one = call(*(f"-{n}" for n in range(publishing.IN_FLIGHT_RECORDS + 5)))
    confirming.start(one)
    assert len(wire.values()) == publishing.IN_FLIGHT_RECORDS
    confirming.abandon(one)
    confirming.confirmed(10, multiple=True)
    confirming.start(call("x1"))
    assert wire.values()[publishing.IN_FLIGHT_RECORDS :] == ["x1"]
