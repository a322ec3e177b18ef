"""What the Redis log's URL may say, and what it says about servers that are configured too weakly."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.message import Record
from millstream.ports.instrumentation import Silent
from millstream.ports.transport import Durability
from millstream.runtime.adapters import AdapterContext, open_transport
from millstream.testing.conformance.transport_case import PATIENCE, everything, keyed, values
from millstream.testing.engines.redis import RedisServer
from redis.asyncio import Redis

SECRET = "s3cret/ü@"
IN_A_URL = "s3cret%2F%C3%BC%40"


def context(tmp_path: Path) -> AdapterContext:
    return AdapterContext(tmp_path, SystemClock(), Silent(), keep_seconds=0)


def test_all_that_is_wrong_with_a_url_is_listed_and_no_password(tmp_path: Path) -> None:
    url = f"redis://me:{IN_A_URL}@127.0.0.1:1/shop?kepe=2d&keep=soon&appendfsync=sometimes"
    with pytest.raises(Misconfigured) as wrong:
        open_transport(url, context(tmp_path))
    text = str(wrong.value)
    assert len(wrong.value.problems) >= 3
    assert "'kepe'" in text
    assert "'shop'" in text
    assert "appendfsync" in text
    assert "s3cret" not in text


@pytest.mark.parametrize("keep", ["soon", "-3"])
def test_a_duration_that_is_none_is_refused(keep: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="keep"):
        open_transport(f"redis:?keep={keep}x", context(tmp_path))


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(TransportUnavailable, match=r"127\.0\.0\.1:1\b"):
        async with open_transport(f"redis://me:{IN_A_URL}@127.0.0.1:1", context(tmp_path)):
            pass


async def test_a_password_lets_in_and_is_never_shown(tmp_path: Path) -> None:
    with RedisServer(tmp_path, settings={"requirepass": SECRET}) as server:
        async with open_transport(f"redis://:{IN_A_URL}@127.0.0.1:{server.port}/3", context(tmp_path)) as log:
            await log.provision("orders", 1)
            assert await log.publish("orders", 0, keyed("k", 1)) == 1
            assert "s3cret" not in repr(vars(log))
        for wrong in (f"redis://:{IN_A_URL}x@127.0.0.1:{server.port}", server.url):
            with pytest.raises(Misconfigured) as refused:
                async with open_transport(wrong, context(tmp_path)):
                    pass
            assert "s3cret" not in str(refused.value)


async def test_a_permission_that_lacks_is_named(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        client = Redis.from_url(server.url)
        await client.execute_command(
            "ACL", "SETUSER", "shop", "on", ">pw", "~millstream:*", "+@all", "-eval", "-evalsha"
        )
        await client.aclose()
        async with open_transport(f"redis://shop:pw@127.0.0.1:{server.port}", context(tmp_path)) as log:
            with pytest.raises(TransportUnavailable, match="EVALSHA"):
                await log.provision("orders", 1)


def self_signed(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


async def test_tls_checks_the_server(tmp_path: Path) -> None:
    key, certificate = self_signed(tmp_path)
    settings = {"tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-auth-clients": "no"}
    with RedisServer(tmp_path / "redis", settings=settings) as server:
        client = Redis.from_url(server.url)
        port = server.port + 1 if server.port < 65_000 else server.port - 1
        await client.config_set("tls-port", port)
        await client.aclose()
        url = f"redis://localhost:{port}?tls=true"
        async with open_transport(f"{url}&tls_ca={certificate}", context(tmp_path)) as log:
            await log.provision("orders", 1)
            await log.publish("orders", 0, keyed("k", 1))
            assert values(await everything(log, "orders", 0)) == ["k:1"]
        with pytest.raises(TransportUnavailable, match="certificate"):
            async with open_transport(url, context(tmp_path)):
                pass


async def durability(tmp_path: Path, settings: Mapping[str, str], options: str = "") -> Durability:
    with RedisServer(tmp_path / "redis", settings=settings) as server:
        async with open_transport(server.url + options, context(tmp_path)) as log:
            return await log.durability()


@pytest.mark.parametrize(
    ("settings", "process_crash", "named"),
    [
        ({"appendfsync": "everysec"}, False, "appendfsync is everysec; the log needs always"),
        ({"appendfsync": "no"}, True, "appendfsync is no; the log needs always"),
        ({"appendonly": "no"}, False, "appendonly is no; the log needs yes"),
        ({"no-appendfsync-on-rewrite": "yes"}, True, "no-appendfsync-on-rewrite is yes; the log needs no"),
        ({"maxmemory-policy": "allkeys-lru"}, False, "the log needs noeviction"),
    ],
)
async def test_a_setting_that_is_too_weak_is_named_with_what_it_needs(
    settings: Mapping[str, str], process_crash: bool, named: str, tmp_path: Path
) -> None:
    found = await durability(tmp_path, settings)
    assert (found.process_crash, found.power_loss) == (process_crash, False)
    assert named in found.why_not


@pytest.mark.parametrize("settings", [{}, {"maxmemory-policy": "volatile-ttl"}])
async def test_a_server_as_it_should_be_promises_everything(settings: Mapping[str, str], tmp_path: Path) -> None:
    assert await durability(tmp_path, settings) == Durability(process_crash=True, power_loss=True)


async def test_a_server_that_refuses_config_needs_the_operators_word(tmp_path: Path) -> None:
    settings = {"rename-command CONFIG": ""}
    found = await durability(tmp_path / "a", settings)
    assert not found.power_loss
    assert "?appendfsync=always" in found.why_not
    stated = await durability(tmp_path / "b", settings, "?appendfsync=always")
    assert stated == Durability(process_crash=True, power_loss=True)
    weak = await durability(tmp_path / "c", {**settings, "appendonly": "no"}, "?appendfsync=always")
    assert "appendonly is no" in weak.why_not


async def test_replicas_mean_that_a_failover_may_lose(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "primary", settings={"repl-diskless-sync-delay": "0"}) as primary,
        RedisServer(tmp_path / "replica", settings={"appendonly": "no"}) as replica,
    ):
        client = Redis.from_url(replica.url)
        await client.replicaof("127.0.0.1", primary.port)
        async with open_transport(primary.url, context(tmp_path)) as log:
            async with asyncio.timeout(PATIENCE):
                while not (await log.durability()).why_not:
                    await client.wait(0, 10)
            assert "may lose on failover" in (await log.durability()).why_not
        async with asyncio.timeout(PATIENCE):
            while (await client.info("replication"))["master_link_status"] != "up":
                await client.ping()
        async with open_transport(replica.url, context(tmp_path)) as log:
            with pytest.raises(TransportUnavailable, match="primary"):
                await log.provision("orders", 1)
        await client.aclose()


async def test_a_server_that_is_too_old_or_clustered_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path, settings={"cluster-enabled": "yes"}) as server:
        with pytest.raises(Misconfigured, match="cluster"):
            async with open_transport(server.url, context(tmp_path)):
                pass


async def test_two_logs_with_different_prefixes_share_a_server(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with (
            open_transport(f"{server.url}?prefix=a:", context(tmp_path)) as one,
            open_transport(f"{server.url}?prefix=b:", context(tmp_path)) as other,
        ):
            await one.provision("orders", 1)
            assert await other.partitions("orders") is None
            await other.provision("orders", 2)
            await one.publish("orders", 0, [Record(b"one")])
            assert await everything(other, "orders", 0) == []
