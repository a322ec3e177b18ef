"""Admin endpoints over the services' stores: lanes, dead letters, outbox. See `admin.py` for the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..delivery.operations_api import (
    DeadLetterFilter,
    DeadLetterRow,
    LaneRow,
    LaneState,
    Moved,
    Operations,
    PositionRow,
)
from ..ports.transport import Bounds
from .admin_system import AdminSystem, Endpoint, body_of, operations_of, query_of, reply, seconds_ago
from .problems import Problem

__all__ = ["ENDPOINTS", "Letters", "Redrive", "parse_letter_id"]

LARGEST_PAGE = 1000
_ABSENT = msgspec.Raw()  # no JSON text is empty


class _LaneQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str | None = None
    subscription: str | None = None
    key: str | None = None
    state: LaneState | None = None
    limit: int = 100


class _Skip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    subscription: str
    partition: int
    to: int


class Letters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters: ids (`orders:17`) or conditions. `older` and `newer` are durations since their death."""

    ids: list[str] | None = None
    service: str | None = None
    subscription: str | None = None
    topic: str | None = None
    key: str | None = None
    tenant: str | None = None
    type: str | None = None
    reason: str | None = None
    older: str | None = None
    newer: str | None = None
    after: str | None = None
    """Paging: only letters behind this id."""
    limit: int = 100


class Redrive(Letters, frozen=True, forbid_unknown_fields=True):
    """What to redrive or drop. Without ids and conditions it must say `all`."""

    all: bool = False
    dry_run: bool = False
    edit: msgspec.Raw = _ABSENT
    rate: float | None = None


class _Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    topic: str
    key: str
    action: Literal["free", "edit", "drop"]
    row_id: int | None = None
    data: msgspec.Raw = _ABSENT


# -- lanes -----------------------------------------------------------------------------------------------------------


async def _lanes(system: AdminSystem, request: Request) -> Response:
    query = query_of(request, _LaneQuery)
    lanes: list[LaneRow] = []
    positions: list[PositionRow] = []
    for operations in operations_of(system, query.service):
        left = min(query.limit, LARGEST_PAGE) - len(lanes)
        if left > 0:
            lanes += await operations.lanes(
                subscription=query.subscription, key=query.key, state=query.state, limit=left
            )
        positions += await operations.positions(subscription=query.subscription)
    bounds: dict[tuple[str, int], Bounds] = {}
    for place in sorted({(row.topic, row.partition) for row in positions}):
        bounds[place] = await system.transport.bounds(*place)
    with_latest: list[PositionRow] = []
    for row in positions:
        ends = bounds[row.topic, row.partition]
        latest = ends.latest if ends.lag(row.position) else row.position
        with_latest.append(msgspec.structs.replace(row, latest=latest))
    return reply({"lanes": lanes, "positions": with_latest})


async def _skip(system: AdminSystem, request: Request) -> Response:
    skip = await body_of(request, _Skip)
    (operations,) = operations_of(system, skip.service)
    return reply({"from": await operations.skip(skip.subscription, skip.partition, skip.to), "to": skip.to})


# -- dead letters ----------------------------------------------------------------------------------------------------


async def _dead_letters(system: AdminSystem, request: Request) -> Response:
    query = query_of(request, Letters)
    after_service, after_id = parse_letter_id(query.after) if query.after else ("", 0)
    limit = max(1, min(query.limit, LARGEST_PAGE))
    rows: list[DeadLetterRow] = []
    for operations in operations_of(system, query.service):
        if operations.service < after_service or len(rows) > limit:
            continue
        letters = _filter(system, query, operations.service)
        if operations.service == after_service:
            letters = msgspec.structs.replace(letters, after_id=after_id)
        # One more than asked for says whether there is a next page.
        rows += await operations.dead_letters(letters, limit=limit + 1 - len(rows))
    page = [_letter(row) for row in rows[:limit]]
    return reply({"dead_letters": page, "next": page[-1]["id"] if len(rows) > limit else None})


async def _dead_letter(system: AdminSystem, request: Request) -> Response:
    service, number = parse_letter_id(request.path_params["id"])
    (operations,) = operations_of(system, service)
    letter = await operations.dead_letter(number)
    if letter is None:
        raise Problem(404, f"no dead letter {service}:{number}; it may have been redriven or dropped")
    return reply({**_letter(letter.row), "error": letter.error, "behind": letter.behind, "message": letter.message})


async def _redrive(system: AdminSystem, request: Request) -> Response:
    asked = await body_of(request, Redrive)
    if asked.rate is not None and asked.rate <= 0:
        raise Problem(422, "rate is letters per second, above 0")
    if asked.edit and len(asked.ids or ()) != 1:
        raise Problem(422, "edit needs exactly one id")
    edit = bytes(asked.edit) or None

    async def redrive(operations: Operations, letters: DeadLetterFilter, limit: int) -> Moved:
        return await operations.redrive(letters, dry_run=asked.dry_run, edit=edit, rate=asked.rate, limit=limit)

    return reply(await _move(system, asked, redrive))


async def _drop(system: AdminSystem, request: Request) -> Response:
    asked = await body_of(request, Redrive)
    if asked.edit or asked.rate is not None:
        raise Problem(422, "drop takes neither edit nor rate")

    async def drop(operations: Operations, letters: DeadLetterFilter, limit: int) -> Moved:
        return await operations.drop(letters, dry_run=asked.dry_run, limit=limit)

    return reply(await _move(system, asked, drop))


async def _move(
    system: AdminSystem, asked: Redrive, move: Callable[[Operations, DeadLetterFilter, int], Awaitable[Moved]]
) -> dict[str, Any]:
    """Move up to `limit` letters over the services that are meant, and add up what was done."""
    if asked.ids is None and not asked.all and not _has_condition(asked):
        raise Problem(422, 'name ids or conditions, or say "all": true')
    wanted = {parse_letter_id(text) for text in asked.ids} if asked.ids is not None else None
    limit = max(1, min(asked.limit, LARGEST_PAGE))
    matched, moved, ids = 0, 0, list[str]()
    for operations in operations_of(system, asked.service):
        letters = _filter(system, asked, operations.service)
        if wanted is not None:
            mine = tuple(sorted(number for service, number in wanted if service == operations.service))
            if not mine:
                continue
            letters = msgspec.structs.replace(letters, ids=mine)
        # A service behind the limit is still counted, so that `remaining` is true: asking is a dry run.
        left = limit - len(ids)
        done = await move(operations, letters, left) if left > 0 else await operations.drop(letters, dry_run=True)
        matched += done.matched
        moved += done.moved
        ids += [f"{operations.service}:{number}" for number in done.ids] if left > 0 else []
    return {"matched": matched, "moved": moved, "remaining": matched - moved, "ids": ids, "dry_run": asked.dry_run}


def _has_condition(asked: Letters) -> bool:
    conditions = (asked.service, asked.subscription, asked.topic, asked.key, asked.tenant, asked.type, asked.reason)
    return any(value is not None for value in (*conditions, asked.older, asked.newer))


def _filter(system: AdminSystem, asked: Letters, service: str) -> DeadLetterFilter:
    ids = [parse_letter_id(text) for text in asked.ids or ()]
    return DeadLetterFilter(
        ids=tuple(number for owner, number in ids if owner == service),
        subscription=asked.subscription,
        topic=asked.topic,
        key=asked.key,
        tenant=asked.tenant,
        type=asked.type,
        reason=asked.reason,
        before_us=seconds_ago(system, asked.older),
        after_us=seconds_ago(system, asked.newer),
    )


def parse_letter_id(text: str) -> tuple[str, int]:
    """`orders:17` → ("orders", 17)."""
    service, _, number = text.rpartition(":")
    if not service or not number.isdecimal() or len(number) > 18:
        raise Problem(422, f"{text!r} is no id of a dead letter; they read like 'orders:17'")
    return service, int(number)


def _letter(row: DeadLetterRow) -> dict[str, Any]:
    return {**msgspec.to_builtins(row), "id": f"{row.service}:{row.id}"}


# -- outbox ----------------------------------------------------------------------------------------------------------


async def _outbox(system: AdminSystem, request: Request) -> Response:
    found = operations_of(system, request.query_params.get("service"))
    return reply({"outbox": [await operations.outbox() for operations in found], "now_us": system.clock.now_us()})


async def _held_row(system: AdminSystem, request: Request) -> Response:
    (operations,) = operations_of(system, request.path_params["service"])
    topic, key = request.query_params.get("topic", ""), request.query_params.get("key", "")
    row = await operations.held_row(topic, key)
    if row is None:
        raise Problem(404, f"key {key!r} of topic {topic!r} is not held")
    return reply(row)


async def _decide_held(system: AdminSystem, request: Request) -> Response:
    held = await body_of(request, _Held)
    (operations,) = operations_of(system, held.service)
    if held.action == "free":
        await operations.free_key(held.topic, held.key)
    elif held.row_id is None:
        raise Problem(422, "row_id is needed, so that you decide about the row that you have seen")
    elif held.action == "drop":
        await operations.drop_row(held.topic, held.key, held.row_id)
    elif not held.data:
        raise Problem(422, "edit needs data")
    else:
        await operations.edit_row(held.topic, held.key, held.row_id, bytes(held.data))
    return reply({"service": held.service, "topic": held.topic, "key": held.key, "done": held.action})


ENDPOINTS: list[tuple[str, str, Endpoint]] = [
    ("GET", "/admin/lanes", _lanes),
    ("POST", "/admin/lanes/skip", _skip),
    ("GET", "/admin/dlq", _dead_letters),
    ("POST", "/admin/dlq/redrive", _redrive),
    ("POST", "/admin/dlq/drop", _drop),
    ("GET", "/admin/dlq/{id}", _dead_letter),
    ("GET", "/admin/outbox", _outbox),
    ("POST", "/admin/outbox", _decide_held),
    ("GET", "/admin/outbox/{service}/held", _held_row),
]
