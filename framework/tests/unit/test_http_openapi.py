"""The OpenAPI document: valid by the standard's own validator, complete, and the same every time."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, cast

import msgspec
import pydantic
from millstream import Service, Tx
from millstream.delivery.outbox import Origin
from millstream.delivery.tx import Query
from millstream.http import Accepted, Caller, Created, Reply
from millstream.http.app import HttpBinding
from millstream.http.openapi import openapi_document
from millstream.ids import Ids
from millstream.ports.store import Store
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.responses import Response


class NoStore:
    async def query(self, sql: str, *params: Any) -> list[Any]:
        return []


class Line(msgspec.Struct):
    sku: str
    quantity: int


class NewOrder(msgspec.Struct):
    lines: list[Line]


class Order(msgspec.Struct):
    id: str
    lines: list[Line] = []


@dataclasses.dataclass
class Note:
    text: str


class Sub(pydantic.BaseModel):
    n: int


class Model(pydantic.BaseModel):
    name: str
    sub: Sub


def service() -> Service:
    shop = Service("shop")

    @shop.post("/orders", idempotent=True)
    async def place(body: NewOrder, caller: Caller, tx: Tx) -> Created[Order]:
        """Place an order. It is confirmed once it is paid."""
        raise NotImplementedError

    @shop.get("/orders")
    async def find(
        query: Query,
        state: Literal["open", "closed"] = "open",
        limit: int = 20,
        tag: list[str] = [],  # noqa: B006 - read only
    ) -> list[Order]: ...

    @shop.get("/orders/{order_id}", summary="One order")
    async def read(order_id: str, query: Query) -> Order: ...

    @shop.delete("/orders/{order_id}", roles=("admin",))
    async def remove(order_id: str, tx: Tx) -> None: ...

    @shop.post("/notes", public=True)
    async def note(body: Note) -> Accepted[Note]: ...

    @shop.put("/models/{n}")
    async def model(n: int, body: Model) -> Model: ...

    @shop.post("/hook", public=True)
    async def hook(body: bytes) -> Reply[str]: ...

    @shop.get("/page", public=True)
    async def page() -> Response: ...

    return shop


def document(routes: Any = None) -> bytes:
    shop = service()
    binding = HttpBinding("shop", routes or shop.routes, cast(Store, NoStore()), Origin("shop", Ids()), {})
    return openapi_document([binding], title="Shop", version="1.2", servers=["https://shop.example.org"])


def test_the_document_is_valid_and_always_the_same() -> None:
    first = document()
    OpenAPIV31SpecValidator(msgspec.json.decode(first)).validate()
    assert document(list(reversed(service().routes))) == first


def test_every_operation_says_what_it_takes_and_gives() -> None:
    paths = msgspec.json.decode(document())["paths"]
    assert {(path, method) for path, found in paths.items() for method in found} == {
        ("/orders", "post"), ("/orders", "get"), ("/orders/{order_id}", "get"), ("/orders/{order_id}", "delete"),
        ("/notes", "post"), ("/models/{n}", "put"), ("/hook", "post"), ("/page", "get"),
    }  # fmt: skip
    place = paths["/orders"]["post"]
    assert (place["summary"], place["security"]) == ("Place an order", [{"bearer": []}])
    assert [p["name"] for p in place["parameters"] if p["required"]] == ["Idempotency-Key"]
    assert place["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NewOrder"}
    assert place["responses"]["201"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Order"}
    assert {"400", "401", "409", "413", "415", "422", "500", "503"} <= set(place["responses"])
    find = {p["name"]: p for p in paths["/orders"]["get"]["parameters"]}
    assert find["state"]["schema"] == {"enum": ["closed", "open"], "default": "open"}
    assert (find["limit"]["required"], find["limit"]["schema"]["default"]) == (False, 20)
    assert paths["/orders/{order_id}"]["get"]["summary"] == "One order"
    remove = paths["/orders/{order_id}"]["delete"]
    assert {"204", "403", "404"} <= set(remove["responses"])
    assert paths["/notes"]["post"]["security"] == [{}, {"bearer": []}]
    assert "401" not in paths["/hook"]["post"]["responses"]
    assert paths["/hook"]["post"]["requestBody"]["content"] == {"application/octet-stream": {}}


def test_schemas_of_every_kind_are_components() -> None:
    schemas = msgspec.json.decode(document())["components"]["schemas"]
    assert {"NewOrder", "Order", "Line", "Note", "Model", "Sub", "ProblemDocument", "Place"} == set(schemas)
    assert schemas["Model"]["properties"]["sub"] == {"$ref": "#/components/schemas/Sub"}
