"""`millstream publish TOPIC TYPE DATA`: one event by hand, checked against its declaration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ..errors import Misconfigured
from .options import Json, Remote
from .output import print_json, write
from .remote import connect

__all__ = ["publish"]


def publish(
    topic: Annotated[str, Parameter(help="The topic.")],
    type: Annotated[str, Parameter(help="The event's type, such as OrderPlaced.")],  # noqa: A002 - the field's word
    data: Annotated[str, Parameter(help="Its data as JSON; @FILE reads a file, - reads stdin.")],
    /,
    *,
    key: Annotated[str | None, Parameter(help="Key, where the event declares none.")] = None,
    version: Annotated[int | None, Parameter(help="Version of the data [default: the newest].")] = None,
    tenant: Annotated[str | None, Parameter(help="Tenant of the message.")] = None,
    unchecked: Annotated[bool, Parameter(negative=(), help="Also a type that no service declares.")] = False,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """Publish one event straight to the log, from the source `operator`."""
    body = {"topic": topic, "type": type, "data": _data(data), "key": key, "version": version, "tenant": tenant}
    done = connect(where).post("/admin/publish", {**body, "unchecked": unchecked})
    if json:
        print_json(done)
    else:
        write(f"published {done['id']} to {done['topic']}/{done['partition']}, key {done['key']!r}")


def _data(text: str) -> msgspec.Raw:
    try:
        if text == "-":
            content = sys.stdin.buffer.read()
        elif text.startswith("@"):
            content = Path(text[1:]).read_bytes()
        else:
            content = text.encode()
        msgspec.json.decode(content)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"the event's data: {error}") from error
    return msgspec.Raw(content.strip())
