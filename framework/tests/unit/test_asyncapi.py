"""The AsyncAPI document: valid by the official schema, complete, and the same bytes each time."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
from millstream import Event, Service, Tx, event
from millstream.http.asyncapi import asyncapi, asyncapi_json
from millstream.service.topics import consumed_by, published_by, topics_of

OFFICIAL = Path(__file__).with_name("test_asyncapi_schema_3.0.0.json.gz")
"""From the npm package @asyncapi/specs 6.11.1 (Apache-2.0), unchanged but for the compression."""


class Line(pydantic.BaseModel):
    product: str


class OrderPlaced(Event, topic="orders", key="order_id", version=2, upgrade={1: lambda old: old}):
    """An order was placed."""

    order_id: str
    total: int


class OrderConfirmed(Event, topic="orders", key="order_id"):
    order_id: str


@event(topic="payments", key="order_id")
@dataclass(frozen=True)
class PaymentSettled:
    order_id: str
    amount: int | None = None


@event(topic="baskets")
class BasketSeen(pydantic.BaseModel):
    lines: list[Line]


class Audited(Event, topic="audit"):
    what: str


def services() -> list[Service]:
    orders = Service("orders")
    orders.emits(OrderPlaced)

    @orders.on(PaymentSettled, name="confirm-order", after_dead_letter="go_on")
    async def confirm(event: PaymentSettled, tx: Tx) -> OrderConfirmed | None: ...

    payments = Service("payments")

    @payments.on(OrderPlaced, name="charge")
    async def charge(event: OrderPlaced, tx: Tx) -> tuple[PaymentSettled, Audited]: ...

    @payments.on(OrderPlaced, OrderConfirmed, name="watch")
    async def watch(event: list[OrderPlaced | OrderConfirmed], tx: Tx) -> Iterator[Audited]: ...

    @payments.effect(BasketSeen, name="show")
    async def show(event: BasketSeen) -> None: ...

    @payments.every("1h", name="report")
    async def report(tx: Tx) -> list[Audited]: ...

    return [orders, payments]


def test_the_document_is_valid_by_the_official_schema() -> None:
    schema = json.loads(gzip.decompress(OFFICIAL.read_bytes()))

    jsonschema.Draft7Validator(schema).validate(asyncapi(services()))
    jsonschema.Draft7Validator(schema).validate(asyncapi([]))


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi(services())
    references = [value for key, value in _walk(document) if key == "$ref"]

    assert references
    for reference in references:
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def test_topics_subscriptions_and_publishers_are_all_there() -> None:
    document = asyncapi(services())

    assert sorted(document["channels"]) == ["audit", "baskets", "orders", "payments"]
    assert {name: operation["action"] for name, operation in document["operations"].items()} == {
        "orders.publishes.orders": "send",
        "orders.confirm-order": "receive",
        "payments.publishes.audit": "send",
        "payments.publishes.payments": "send",
        "payments.charge": "receive",
        "payments.watch": "receive",
        "payments.show": "receive",
    }
    assert document["operations"]["payments.show"]["x-millstream"]["effect"] is True
    assert sorted(document["channels"]["orders"]["messages"]) == ["OrderConfirmed.v1", "OrderPlaced.v2"]


def test_a_real_message_fits_the_schema_of_its_payload() -> None:
    document = asyncapi(services())
    payload = document["components"]["messages"]["OrderPlaced.v2"]["payload"]
    schema = {**payload, "components": document["components"]}
    message = {
        "specversion": "1.0", "id": "1", "source": "orders", "type": "OrderPlaced", "dataversion": 2, "subject": "o1",
        "time": "2024-01-01T00:00:00.000000Z", "data": {"order_id": "o1", "total": 5},
    }  # fmt: skip

    jsonschema.Draft202012Validator(schema).validate(message)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**message, "data": {"order_id": "o1"}})


def test_the_same_declarations_give_the_same_bytes_in_another_process() -> None:
    here = asyncapi_json(services())
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_asyncapi import services\nfrom millstream.http.asyncapi import asyncapi_json\n"
        "sys.stdout.buffer.write(asyncapi_json(reversed(services())))"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout

    assert there == here


def test_what_a_service_reads_and_writes_is_found_in_its_declarations() -> None:
    orders, payments = services()

    assert [declared.name for declared in consumed_by(payments)] == ["BasketSeen", "OrderConfirmed", "OrderPlaced"]
    assert [declared.name for declared in published_by(payments)] == ["Audited", "PaymentSettled"]
    assert [declared.name for declared in published_by(orders)] == ["OrderConfirmed", "OrderPlaced"]
    use = {topic.topic: topic for topic in topics_of([orders, payments])}
    assert use["orders"].publishers == ("orders",)
    assert use["orders"].subscriptions == (("payments", "charge"), ("payments", "watch"))


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from _walk(value)
    elif isinstance(node, list):
        for inner in node:
            yield from _walk(inner)
