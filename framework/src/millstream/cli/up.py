"""`millstream up` and `millstream run`: services in this process, until a signal stops them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..runtime.settings import Settings
from .options import Configured, Json
from .output import print_json, write
from .services import import_from_here

__all__ = ["run", "up"]

App = Annotated[str | None, Parameter(help="Import path of the services, module:name [default: from the settings].")]
Port = Annotated[int | None, Parameter(help="Port of the HTTP edge; 0 takes a free one [default: 8080].")]
Host = Annotated[str | None, Parameter(help="Address to listen on [default: 127.0.0.1].")]
Store = Annotated[str | None, Parameter(help="Where services keep their data [default: sqlite].")]
Transport = Annotated[str | None, Parameter(help="The log between services [default: log].")]
Partitions = Annotated[int | None, Parameter(help="Partitions of topics that do not exist yet [default: 8].")]
Begin = Annotated[
    Literal["earliest", "now"] | None,
    Parameter(name="--from", help="Where subscriptions begin that a used store does not know."),
]


def up(
    app: App = None,
    /,
    *,
    port: Port = None,
    host: Host = None,
    store: Store = None,
    transport: Transport = None,
    partitions: Partitions = None,
    start: Begin = None,
    reload: Annotated[bool, Parameter(negative=(), help="Start anew when a source file changes.")] = False,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> int:
    """Run all services in one process: one HTTP port, the embedded engines unless told otherwise.

    SIGTERM and SIGINT drain and exit with 0; a second signal exits at once.
    """
    settings = where.settings(
        app=app, http__port=port, http__host=host, store__url=store, transport__url=transport,
        transport__partitions=partitions, start=start,
    )  # fmt: skip
    if reload:
        from .reload import run_reloading

        return run_reloading([Path.cwd()])
    return _run(settings, json)


def run(
    service: Annotated[str, Parameter(help="Name of the service.")],
    app: App = None,
    /,
    *,
    port: Port = None,
    host: Host = None,
    store: Store = None,
    transport: Transport = None,
    partitions: Partitions = None,
    start: Begin = None,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> int:
    """Run one service in this process; its siblings run elsewhere, on the same log."""
    settings = where.settings(
        app=app, only=(service,), http__port=port, http__host=host, store__url=store, transport__url=transport,
        transport__partitions=partitions, start=start,
    )  # fmt: skip
    return _run(settings, json)


def _run(settings: Settings, json: bool) -> int:
    import_from_here()
    from ..runtime.run import run_up

    def announce(url: str, seconds: float) -> None:
        if json:
            print_json({"ready": True, "url": url, "seconds": round(seconds, 3), "data": str(settings.data)})
        else:
            write(_announcement(url, seconds, settings))

    return run_up(settings, announce)


def _announcement(url: str, seconds: float, settings: Settings) -> str:
    rows = [
        ("API", url, "described at /openapi.json and /asyncapi.json"),
        ("health", f"{url}/ready", "also /live and /metrics"),
        ("data", f"{settings.data}/", f"store {_engine(settings.store.url)}, log {_engine(settings.transport.url)}"),
    ]
    if settings.auth.development:
        rows.append(("token", f"millstream token --subject you{_data(settings)}", "for Authorization: Bearer …"))
    width = max(len(where) for _, where, _ in rows)
    lines = [f"  {name:<7} {where:<{width}}  {about}" for name, where, about in rows]
    return "\n".join([f"Millstream is ready after {seconds:.2f} s", *lines])


def _engine(url: str) -> str:
    return url.partition(":")[0]


def _data(settings: Settings) -> str:
    return "" if str(settings.data) == "var" else f" --data {settings.data}"
