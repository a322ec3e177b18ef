"""`millstream lanes`: what waits, why, and how far each subscription has come."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from .options import Json, Remote
from .output import age, hint, print_json, table, write
from .remote import connect

__all__ = ["app"]

app = App(name="lanes")


@app.default
def show(
    *,
    service: Annotated[str | None, Parameter(help="Only of this service.")] = None,
    subscription: Annotated[str | None, Parameter(help="Only of this subscription.")] = None,
    key: Annotated[str | None, Parameter(help="Only of this key.")] = None,
    state: Annotated[Literal["parked", "held"] | None, Parameter(help="Waiting for a retry, or for a person.")] = None,
    limit: Annotated[int, Parameter(help="How many lanes at most.")] = 100,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), help="Also positions that have nothing to catch up.")
    ] = False,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Show lanes that do not flow, and positions that lag."""
    found = connect(where).get(
        "/admin/lanes", service=service, subscription=subscription, key=key, state=state, limit=limit
    )
    if json:
        print_json(found)
        return
    lanes: list[dict[str, Any]] = found["lanes"]
    positions: list[dict[str, Any]] = found["positions"]
    if lanes:
        columns = (
            "service",
            "subscription",
            "topic",
            "key",
            "state",
            "waiting#",
            "attempts#",
            "next try",
            "since",
            "why",
        )
        table("Lanes that do not flow", columns, (_lane(lane) for lane in lanes))
    else:
        write("Every lane flows.")
    shown = [p for p in positions if every or _lag(p) or p["parked"] or p["dead_letters"]]
    if shown:
        columns = ("service", "subscription", "topic", "partition#", "position#", "lag#", "parked#", "dead#", "owner")
        table("Positions" if every else "Positions that lag", columns, (_position(p) for p in shown))
    elif positions:
        write("Every subscription has read to the end of its topic.")
    if any(lane["state"] == "held" for lane in lanes):
        hint("A held lane waits for `millstream dlq redrive` or `millstream dlq drop`.")


@app.command
def skip(
    *,
    service: Annotated[str, Parameter(help="The service that reads.")],
    subscription: Annotated[str, Parameter(help="Its subscription.")],
    partition: Annotated[int, Parameter(help="Partition of its topic.")],
    to: Annotated[int, Parameter(help="New position; what lies before it is never handled.")],
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Move a position forward without handling what lies between: accepts the loss of those messages."""
    body = {"service": service, "subscription": subscription, "partition": partition, "to": to}
    moved = connect(where).post("/admin/lanes/skip", body)
    if json:
        print_json(moved)
    else:
        write(f"{service}/{subscription}, partition {partition}: moved from {moved['from']} to {moved['to']}")


def _lane(lane: dict[str, Any]) -> tuple[object, ...]:
    due = "held" if lane["due_us"] is None else f"in {age(lane['due_us'])}"
    topic = f"{lane['topic']}/{lane['partition']}"
    since = age(lane["since_us"])
    return (
        lane["service"], lane["subscription"], topic, lane["key"], lane["state"], lane["parked"], lane["attempts"], due,
        since, lane["reason"],
    )  # fmt: skip


def _lag(position: dict[str, Any]) -> int:
    return max(0, (position["latest"] or 0) - position["position"])


def _position(p: dict[str, Any]) -> tuple[object, ...]:
    owner = p["owner"] or "nobody"
    return (
        p["service"], p["subscription"], p["topic"], p["partition"], p["position"], _lag(p), p["parked"],
        p["dead_letters"], owner,
    )  # fmt: skip
