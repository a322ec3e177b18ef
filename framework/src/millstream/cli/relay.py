"""`millstream relay`: forwards the outbox of an application that is not written with Millstream."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from .options import Configured, Json
from .output import print_json, write

__all__ = ["relay"]


def relay(
    *,
    store: Annotated[
        str | None,
        Parameter(help="The application's database: postgresql://user@host/database or sqlite:///path/to/app.db."),
    ] = None,
    transport: Annotated[str | None, Parameter(help="The log to forward to [default: log].")] = None,
    topic: Annotated[tuple[str, ...], Parameter(help="Create this topic, if it does not exist yet. Repeatable.")] = (),
    partitions: Annotated[
        int | None, Parameter(help="Partitions of topics that do not exist yet [default: 8].")
    ] = None,
    schema: Annotated[
        str | None, Parameter(help="Where the tables are, on PostgreSQL [default: the search path].")
    ] = None,
    create_tables: Annotated[
        bool, Parameter(negative=(), help="Create the tables first, or bring them up to date.")
    ] = False,
    print_tables: Annotated[
        Literal["postgresql", "sqlite"] | None,
        Parameter(help="Print the tables as SQL, for the application's own migrations, and exit."),
    ] = None,
    port: Annotated[
        int | None, Parameter(help="Port of probes and metrics; 0 takes a free one [default: 8080].")
    ] = None,
    host: Annotated[str | None, Parameter(help="Address to listen on [default: 127.0.0.1].")] = None,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> int:
    """Forward what an application's own transactions published (docs/guide/adoption.md), until a signal stops it.

    Killing it at any moment repeats rows, and loses none. SIGTERM and SIGINT finish the rows at hand and exit with 0.
    """
    if print_tables is not None:
        from ..adoption.tables import tables

        write(";\n\n".join(tables(print_tables)) + ";")
        return 0
    from ..adoption.relay_process import RelayOptions, run_relay

    settings = where.settings(
        store__url=store, transport__url=transport, transport__partitions=partitions, http__port=port, http__host=host
    )

    def announce(url: str) -> None:
        if json:
            print_json({"ready": True, "url": url})
        else:
            write(f"relaying; probes and metrics at {url}/ready and {url}/metrics")

    return run_relay(settings, RelayOptions(topic, schema, create_tables), announce)
