"""`millstream asyncapi`: the AsyncAPI 3.0 document of all services, without starting any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .options import Configured, Json
from .output import write

__all__ = ["asyncapi"]


def asyncapi(
    app: Annotated[str | None, Parameter(help="Import path of the services [default: from the settings].")] = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="Write to this file instead of stdout.")] = None,
    title: Annotated[str, Parameter(help="Title of the document.")] = "Millstream",
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> None:
    """Print the AsyncAPI 3.0 document of all services; with --json on one line."""
    import msgspec

    from ..http.asyncapi import asyncapi_json
    from .services import load_services

    document = asyncapi_json(load_services(where.settings(app=app)), title=title)
    if json:
        document = msgspec.json.format(document, indent=-1)
    if out is None:
        write(document.decode())
    else:
        out.write_bytes(document + b"\n")
