"""`millstream tail TOPIC`: the messages of a topic as they arrive."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from .options import Json, Remote
from .output import print_json, write
from .remote import connect

__all__ = ["tail"]


def tail(
    topic: Annotated[str, Parameter(help="The topic.")],
    /,
    *,
    start: Annotated[Literal["earliest", "now"], Parameter(name="--from", help="Where to begin.")] = "now",
    follow: Annotated[bool, Parameter(help="Go on with what arrives; --no-follow ends at the present end.")] = True,
    key: Annotated[str | None, Parameter(help="Only messages with this key.")] = None,
    type: Annotated[str | None, Parameter(help="Only events of this type.")] = None,  # noqa: A002 - the field's word
    limit: Annotated[int | None, Parameter(help="End after this many.")] = None,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Follow the messages of a topic: one line each, until interrupted. With --json one object a line."""
    query = {"topic": topic, "from": start, "follow": follow, "key": key, "type": type, "limit": limit}
    with suppress(KeyboardInterrupt):
        for entry in connect(where).lines("/admin/tail", **query):
            if json:
                print_json(entry)
            else:
                write(_line(entry))


def _line(entry: dict[str, Any]) -> str:
    place = f"{entry.get('partition')}/{entry.get('position', '')}"
    if "message" not in entry:
        return f"{place:>10}  {entry.get('undecodable') or entry.get('error')}"
    message = entry["message"]
    data = msgspec.json.encode(message.get("data")).decode()
    return f"{message['time']}  {place:>10}  {message['type']:<24} {entry['key'] or '-'}  {data}"
