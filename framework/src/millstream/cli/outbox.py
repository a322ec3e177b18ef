"""`millstream outbox`: what is committed but not yet published, and the keys that a refused row holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from ..errors import Misconfigured
from .options import Json, Remote
from .output import age, hint, print_json, table, write
from .remote import connect, segment

__all__ = ["app"]

app = App(name="outbox")

Service = Annotated[str, Parameter(help="The service whose outbox it is.")]
Topic = Annotated[str, Parameter(help="Topic of the held row.")]
Key = Annotated[str, Parameter(help="Key that is held.")]
Row = Annotated[int, Parameter(name="--row", help="Id of the refused row, as `millstream outbox` shows it.")]


@app.default
def show(
    *,
    service: Annotated[str | None, Parameter(help="Only of this service.")] = None,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Show depth and age of each outbox, and held keys."""
    found = connect(where).get("/admin/outbox", service=service)
    if json:
        print_json(found)
        return
    outboxes: list[dict[str, Any]] = found["outbox"]
    now = found["now_us"]
    columns = ("service", "waiting#", "oldest", "delayed#", "next delayed", "held keys#")
    table("Outbox", columns, (_outbox(outbox, now) for outbox in outboxes))
    held = [(outbox["service"], row) for outbox in outboxes for row in outbox["held"]]
    if held:
        columns = ("service", "topic", "key", "row#", "waiting#", "held", "why")
        table("Held keys", columns, (_held(owner, row, now) for owner, row in held))
        hint("Look at one with `millstream outbox row`, then `free`, `edit` or `drop` it.")


@app.command
def row(
    *,
    service: Service,
    topic: Topic,
    key: Key,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Show the refused row of a held key with its message."""
    found = connect(where).get(f"/admin/outbox/{segment(service)}/held", topic=topic, key=key)
    if json:
        print_json(found)
        return
    write(f"row {found['held']['row_id']}: {found['held']['reason']}")
    write(found["message"])


@app.command
def free(
    *,
    service: Service,
    topic: Topic,
    key: Key,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Let the relay try a held key again as it stands."""
    _decide(where, {"service": service, "topic": topic, "key": key, "action": "free"}, json)


@app.command
def edit(
    data: Annotated[Path, Parameter(help="File with the new data (JSON).")],
    *,
    service: Service,
    topic: Topic,
    key: Key,
    row_id: Row,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Replace the data of a refused row and let its key go on."""
    try:
        content = data.read_bytes()
        msgspec.json.decode(content)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"{data}: {error}") from error
    body: dict[str, object] = {"service": service, "topic": topic, "key": key, "row_id": row_id, "action": "edit"}
    _decide(where, {**body, "data": msgspec.Raw(content.strip())}, json)


@app.command
def drop(
    *,
    service: Service,
    topic: Topic,
    key: Key,
    row_id: Row,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Discard a refused row for good and let its key go on."""
    _decide(where, {"service": service, "topic": topic, "key": key, "row_id": row_id, "action": "drop"}, json)


def _decide(where: Remote, body: dict[str, object], json: bool) -> None:
    done = connect(where).post("/admin/outbox", body)
    if json:
        print_json(done)
    else:
        write(f"{done['service']}: key {done['key']!r} of {done['topic']}: {done['done']}, it goes on")


def _outbox(outbox: dict[str, Any], now: int) -> tuple[object, ...]:
    oldest, timer = age(outbox["oldest_us"], now), age(outbox["next_timer_us"], now)
    return outbox["service"], outbox["depth"], oldest, outbox["timers"], timer and f"in {timer}", len(outbox["held"])


def _held(service: str, row: dict[str, Any], now: int) -> tuple[object, ...]:
    since = f"{age(row['since_us'], now)} ago"
    return service, row["topic"], row["key"], row["row_id"], row["waiting"], since, row["reason"]
