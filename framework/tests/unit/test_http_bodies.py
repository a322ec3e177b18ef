"""Hostile bodies: whatever arrives, the answer is a value, a 400 or a 422 with places, and never a 500."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from millstream import Service, Tx
from millstream.clock import SystemClock
from millstream.delivery.outbox import Origin
from millstream.http import Reply
from millstream.http.app import HttpBinding, build_app
from millstream.http.bodies import body_decoder, encode_body
from millstream.http.problems import Problem
from millstream.http.replies import answer_of, of_stored, to_stored
from millstream.ids import Ids
from millstream.ports.instrumentation import Silent
from millstream.stores.sqlite import SqliteStore


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Line(msgspec.Struct):
    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    quantity: Annotated[int, msgspec.Meta(ge=1)]


class Order(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[Line]
    note: str = ""
    size: Size = Size.SMALL
    kind: Literal["a", "b"] = "a"
    due: dt.datetime | None = None
    extra: Any = None


@dataclasses.dataclass
class Plain:
    name: str
    count: int = 0


class Model(pydantic.BaseModel):
    name: str
    lines: list[dict[str, int]] = []


def refused(kind: Any, data: bytes, depth: int = 64) -> Problem:
    with pytest.raises(Problem) as caught:
        body_decoder(kind, depth)(data)
    return caught.value


def places(problem: Problem) -> list[tuple[str, str]]:
    return [(place.at, place.message) for place in problem.errors]


def test_values_of_every_kind_are_read() -> None:
    assert body_decoder(Order, 64)(b'{"lines":[{"sku":"a","quantity":1}]}').lines[0].quantity == 1
    assert body_decoder(Plain, 64)(b'{"name":"a","count":3}') == Plain("a", 3)
    assert body_decoder(Model, 64)(b'{"name":"a","lines":[{"a":1}]}') == Model(name="a", lines=[{"a": 1}])
    assert body_decoder(list[int], 64)(b"[1,2]") == [1, 2]


@pytest.mark.parametrize(
    ("body", "at", "message"),
    [
        (b'{"lines":[{"sku":"a","quantity":"x"}]}', "lines[0].quantity", "expected `int`, got `str`"),
        (b'{"lines":[{"sku":"a"}]}', "lines[0].quantity", "is required"),
        (b"{}", "lines", "is required"),
        (b'{"lines":[],"color":1}', "color", "is not known here"),
        (b'{"lines":[{"sku":"a","quantity":0}]}', "lines[0].quantity", "expected `int` >= 1"),
        (b'{"lines":[],"size":"huge"}', "size", "invalid enum value 'huge'"),
        (b"[]", "", "expected `object`, got `array`"),
        (b'{"lines":[],"note":"a\\u0000b"}', "note", "must not contain the character NUL"),
        (b'{"lines":[{"sku":"a","quantity":9223372036854775808}]}', "lines[0].quantity", "must fit into 64 bits"),
        (b'{"lines":[],"extra":{"a":[-9223372036854775809]}}', "extra.a[0]", "must fit into 64 bits"),
        (b'{"lines":[],"extra":{"a\\u0000":1}}', "extra", "must not contain the character NUL"),
    ],
)
def test_places_are_named(body: bytes, at: str, message: str) -> None:
    problem = refused(Order, body)
    assert problem.status == 422
    assert places(problem) == [(at, message)]


def test_pydantic_names_all_its_places() -> None:
    problem = refused(Model, b'{"name":1,"lines":[{"a":"x"}]}')
    assert problem.status == 422
    assert [at for at, _ in places(problem)] == ["name", "lines[0].a"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"lines":"\xff"}', b"{} {}", b'{"a":"\\ud800"}', b"nul", b"NaN"]
)
@pytest.mark.parametrize("kind", [Order, Plain, dict[str, Any]])
def test_what_is_not_json_is_a_400(kind: Any, body: bytes) -> None:
    assert refused(kind, body).status in ((400, 422) if kind is not dict else (400,))


def test_edges_of_64_bits_are_inside() -> None:
    assert body_decoder(Any, 64)(b"[9223372036854775807,-9223372036854775808]") == [2**63 - 1, -(2**63)]
    assert body_decoder(Any, 64)(b'"12345678901234567890 and \\\\u0000"') == "12345678901234567890 and \\u0000"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_nesting_is_bounded_before_anything_is_decoded(opening: bytes) -> None:
    for kind in (Any, Order, Model):
        assert refused(kind, opening * 100_000).status == 400
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}[opening]
    levels = 64 // len(closing)
    body_decoder(Any, 64)(opening * levels + b"1" + closing * levels)


def test_brackets_in_texts_are_no_nesting_and_many_beside_each_other_neither() -> None:
    body_decoder(Any, 4)(msgspec.json.encode({"a": "[" * 100, '\\"[': ["[[[[[", '"[[[[[']}))
    body_decoder(Any, 4)(b"[" + b",".join([b"[{}]"] * 1000) + b"]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.sampled_from(["lines", "sku", "quantity", "name"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
HOSTILE = (
    st.binary(max_size=300)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(lambda a, n, z: a * n + z, st.sampled_from([b"[", b'{"a":', b'"', b"-", b"1", b'{"lines":[']), st.integers(0, 3000), st.binary(max_size=5))
    | st.builds(
        lambda s, q: json.dumps({"lines": [{"sku": s, "quantity": q}], "name": s, "note": s, "extra": q}).encode(),
        st.text(st.characters()) | st.sampled_from(["\0", "\ud800", "\U0010ffff", "'; DROP TABLE lines; --"]),
        st.integers() | st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**400]),
    )
)  # fmt: skip


@given(body=HOSTILE, kind=st.sampled_from([Order, Plain, Model, Any, list[int], dict[str, Line]]))
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_bytes_become_a_value_or_a_problem(body: bytes, kind: Any) -> None:
    refused = None
    try:
        body_decoder(kind, 64)(body)
    except Problem as problem:
        refused = problem
    if refused is not None:
        assert refused.status in (400, 422)
        msgspec.json.decode(refused.body())


@given(data=st.data())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_hostile_requests_never_reach_the_500_on_a_real_store(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bodies = data.draw(st.lists(HOSTILE, min_size=20, max_size=60))
    paths = data.draw(st.lists(st.text(max_size=30), min_size=5, max_size=20))
    queries = data.draw(
        st.lists(
            st.binary(max_size=40) | st.sampled_from([b"n=1", b"n=1e400", b"n=9" * 20, b"s=%00", b"s=%ff", b"f=nan"]),
            min_size=5,
            max_size=20,
        )
    )
    asyncio.run(_attack(tmp_path_factory.mktemp("attack"), bodies, paths, queries))


async def _attack(folder: Path, bodies: list[bytes], paths: list[str], queries: list[bytes]) -> None:
    failures: list[dict[str, Any]] = []

    class Loud(Silent):
        def log(self, level: str, event: str, **fields: Any) -> None:
            failures.append(fields)

    service = Service("shop")

    @service.post("/orders", public=True)
    async def place(body: Order, tx: Tx) -> Order:
        for line in body.lines:
            await tx.execute("INSERT INTO lines VALUES (?, ?, ?)", line.sku, line.quantity, body.note)
        return body

    @service.get("/orders/{name}/{number}", public=True)
    async def read(name: str, number: int, tx: Tx, n: int = 0, s: str = "", f: float = 0.0) -> list[Any]:
        await tx.execute("INSERT INTO lines VALUES (?, ?, ?)", name, number, s)
        return await tx.fetch("SELECT *, ?, ? FROM lines WHERE sku = ? LIMIT 1", n, f, name)

    async with SqliteStore(folder / "shop.db") as store:
        await store.script("CREATE TABLE lines (sku TEXT, quantity INTEGER, note TEXT)")
        binding = HttpBinding("shop", service.routes, store, Origin("shop", Ids()), {})
        app = build_app([binding], authenticate=None, clock=SystemClock(), ids=Ids(), instrumentation=Loud())

        async def ask(method: str, path: str, query: bytes, body: bytes) -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    assert message["status"] < 500, failures

            scope = {
                "type": "http",
                "method": method,
                "path": path,
                "query_string": query,
                "headers": [],
                "client": None,
            }
            await app(scope, receive, send)

        async with asyncio.TaskGroup() as group:
            for body in bodies:
                group.create_task(ask("POST", "/orders", b"", body))
            for path in paths:
                group.create_task(ask("GET", f"/orders/{path}/7", b"", b""))
                group.create_task(ask("GET", f"/orders/a/{path}", b"", b""))
                group.create_task(ask("GET", path, b"", b""))
            for query in queries:
                group.create_task(ask("GET", "/orders/a/7", query, b""))
    assert failures == []


# -- replies -----------------------------------------------------------------------------------------------------------


def test_replies_of_every_kind_are_written() -> None:
    assert encode_body(Plain("a", 1)) == b'{"name":"a","count":1}'
    assert encode_body([Model(name="a")]) == b'[{"name":"a","lines":[]}]'
    assert answer_of(None).status == 204
    page = answer_of(Reply("<p>", headers={"Content-Type": "text/html"}))
    assert (page.headers, page.body) == (((b"content-type", b"text/html"),), b"<p>")
    moved = answer_of(Reply(None, status=302, headers={"Location": "/x"}))
    assert (moved.status, moved.headers, moved.body) == (302, ((b"location", b"/x"),), b"")
    with pytest.raises(TypeError, match="a reply cannot carry a object"):
        encode_body(object())


def test_a_header_cannot_be_split() -> None:
    for value in ("a\r\nset-cookie: b", "a\x00"):
        with pytest.raises(ValueError, match="no header can carry"):
            answer_of(Reply(None, headers={"location": value}))


def test_a_stored_reply_is_the_same_bytes() -> None:
    answer = answer_of(Reply(Plain("é☕", 1), status=201, headers={"location": "/é"}))
    again = of_stored(to_stored(answer), replayed=True)
    assert (again.status, again.body) == (answer.status, answer.body)
    assert again.headers == (*answer.headers, (b"idempotent-replayed", b"true"))
