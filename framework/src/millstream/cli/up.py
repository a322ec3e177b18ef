"""`millstream up` and `millstream run`: services in this process, or each in its own, until a signal stops them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import Misconfigured
from ..runtime.settings import Settings
from .options import Configured, Json, config_file
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
    split: Annotated[bool, Parameter(negative=(), help="Each service in a process of its own, supervised.")] = False,
    workers: Annotated[int | None, Parameter(help="With --split: processes of each service [default: 1].")] = None,
    reload: Annotated[bool, Parameter(negative=(), help="Start anew when a source file changes.")] = False,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> int:
    """Run all services in one process: one HTTP port, the embedded engines unless told otherwise.

    With --split each service runs as a process of its own behind the same port; they call each other over gRPC. Without
    --transport they share a NATS server that is started with them.

    SIGTERM and SIGINT drain and exit with 0; a second signal exits at once.
    """
    settings = where.settings(
        app=app, http__port=port, http__host=host, store__url=store, transport__url=transport,
        transport__partitions=partitions, start=start, split__workers=workers,
    )  # fmt: skip
    if split and reload:
        raise Misconfigured("--reload watches one process: use it without --split")
    if workers is not None and not split:
        raise Misconfigured("--workers goes with --split: one process runs all services once")
    if split:
        return _run_split(settings, where, json)
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
    listen: Annotated[
        str | None, Parameter(help="host:port to serve contracts on over gRPC; port 0 takes a free one.")
    ] = None,
    edge: Annotated[
        bool | None, Parameter(negative=(), help="Answer for the whole system: forward what concerns other services.")
    ] = None,
    name: Annotated[str | None, Parameter(help="Name of this process among others [default: the service's].")] = None,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> int:
    """Run one service in this process; the others run elsewhere, on the same log. What it calls of them needs their
    addresses: [grpc.services] orders = "host:port".
    """
    settings = where.settings(
        app=app, only=(service,), http__port=port, http__host=host, store__url=store, transport__url=transport,
        transport__partitions=partitions, start=start, grpc__listen=listen, http__edge=edge, process=name or service,
    )  # fmt: skip
    return _run(settings, json)


def _run_split(settings: Settings, where: Configured, json: bool) -> int:
    import_from_here()
    from ..runtime.supervisor import run_split

    def announce(system: Settings, url: str, seconds: float) -> None:
        if json:
            print_json({"ready": True, "url": url, "seconds": round(seconds, 3), "data": str(settings.data)})
        else:
            write(_announcement(url, seconds, system))

    return run_split(settings, config_file(where.config), announce)


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
