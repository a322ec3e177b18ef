"""What a confirmed record survives, read back from the server."""

from __future__ import annotations

from collections.abc import Mapping

from redis.exceptions import ResponseError

from ...errors import Misconfigured
from ...ports.transport import Durability
from .connections import Connections

__all__ = ["check_server", "durability"]

SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
OLDEST = (7, 0)
"""`XADD key <milliseconds>-*` came with 7.0."""


async def check_server(connections: Connections) -> None:
    """Refuse a server that cannot be a log.

    Raises:
        Misconfigured: too old, or a node of a cluster; names all that is wrong.
        TransportUnavailable: it is away.
    """
    server = await _info(connections, "server")
    version = server.get("redis_version", "")
    problems: list[str] = []
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        problems.append(f"{connections.address} is version {version or 'unknown'}; the log needs Redis 7.0 or newer")
    if server.get("redis_mode", "standalone") == "cluster":
        problems.append(
            f"{connections.address} is a node of a cluster; the log needs one primary, with replicas if you like"
        )
    if problems:
        raise Misconfigured(problems)


async def durability(connections: Connections, stated_appendfsync: str) -> Durability:
    """Read the settings.

    stated_appendfsync: what the operator says in the URL, believed where the server does not tell.
    """
    process_crash, power_loss, why = True, True, list[str]()
    settings = await _settings(connections)
    if settings is None:
        settings = await _without_config(connections)
        if stated_appendfsync:
            settings["appendfsync"] = stated_appendfsync
        else:
            why.append(
                "the server refuses CONFIG GET, so appendfsync is unknown: find out that it is always and say so in "
                "the URL (?appendfsync=always)"
            )
            process_crash = power_loss = False
    if settings.get("appendonly") != "yes":
        why.append(f"appendonly is {settings.get('appendonly', 'unknown')}; the log needs yes")
        process_crash = power_loss = False
    elif settings.get("appendfsync") not in (None, "always"):
        why.append(f"appendfsync is {settings['appendfsync']}; the log needs always")
        # With everysec the file is written up to two seconds late while a sync is under way.
        process_crash, power_loss = process_crash and settings["appendfsync"] == "no", False
    if settings.get("no-appendfsync-on-rewrite") == "yes":
        why.append("no-appendfsync-on-rewrite is yes; the log needs no")
        power_loss = False
    policy = settings.get("maxmemory-policy", "unknown")
    if policy.startswith("allkeys") or policy == "unknown":
        why.append(f"maxmemory-policy is {policy}, which may drop whole partitions; the log needs noeviction")
        process_crash = power_loss = False
    replication = await _info(connections, "replication")
    if replication.get("connected_slaves", "0") != "0":
        why.append(
            f"it has {replication['connected_slaves']} replica(s), which receive records after they are confirmed: "
            "may lose on failover"
        )
        power_loss = False
    return Durability(process_crash=process_crash, power_loss=power_loss, why_not="; ".join(why))


async def _settings(connections: Connections) -> dict[str, str] | None:
    """What CONFIG GET says; None where it is refused, as hosted servers do."""
    try:
        answer = await connections.call("CONFIG", "GET", *SETTINGS)
    except ResponseError:
        return None
    texts = [text.decode() for text in answer]
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def _without_config(connections: Connections) -> dict[str, str]:
    """What INFO tells of the same settings: all but when the file is synced."""
    persistence, memory = await _info(connections, "persistence"), await _info(connections, "memory")
    return {
        "appendonly": "yes" if persistence.get("aof_enabled") == "1" else "no",
        "maxmemory-policy": memory.get("maxmemory_policy", "unknown"),
    }


async def _info(connections: Connections, section: str) -> Mapping[str, str]:
    text: bytes = await connections.do("INFO", section)
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}
