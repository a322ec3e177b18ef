"""The URL of the NATS log, logins and TLS, and what it says of the server's settings."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, RecordRefused, TransportUnavailable
from millstream.ports.instrumentation import Silent
from millstream.runtime.adapters import AdapterContext
from millstream.testing.conformance.transport_case import everything, keyed, values
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.server import free_port
from millstream.transports.nats import NatsTransport, open_transport

SECRET = "s3cret-pass"


@pytest.fixture
def context(tmp_path: Path) -> AdapterContext:
    return AdapterContext(tmp_path, SystemClock(), Silent())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name


async def works(log: NatsTransport, topic: str) -> None:
    async with log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", *range(20)))
        assert values(await everything(log, topic, 0)) == [f"k:{number}" for number in range(20)]


class _Guarded(NatsServer):
    """A server that does not answer everybody: it is up when it accepts connections."""

    def ready(self) -> bool:
        try:
            self.ask("$JS.API.INFO")
        except ConnectionError as error:
            return "nobody answers" in str(error)
        return True


# -- the URL ------------------------------------------------------------------------------------------------------------


def test_every_problem_of_a_url_is_listed_and_none_shows_the_password(context: AdapterContext, tmp_path: Path) -> None:
    url = (
        f"nats://ann:{SECRET}@one:4222,:17,two:no/path?replica=3&replicas=9&sync=sometimes&timeout=0s&keep=long"
        f"&tls=maybe&tls_ca={tmp_path}/missing"
    )
    with pytest.raises(Misconfigured) as refused:
        open_transport(url, context)
    text = str(refused.value)
    for wrong in (
        "':17'",
        "'two:no'",
        "'/path'",
        "'replica'",
        "replicas=9",
        "sync",
        "timeout",
        "keep",
        "tls=maybe",
        "tls_ca",
    ):
        assert wrong in text
    assert len(refused.value.problems) >= 9
    assert SECRET not in text
    assert "ann" not in text


async def test_a_url_names_several_servers_and_the_one_that_answers_is_used(
    context: AdapterContext, server: NatsServer, topic: str
) -> None:
    await works(
        open_transport(f"nats://127.0.0.1:{free_port()},127.0.0.1:{server.port}?keep=2d&batches=false", context), topic
    )


async def test_no_server_there_is_transport_unavailable(context: AdapterContext) -> None:
    port = free_port()
    with pytest.raises(TransportUnavailable, match=f"127.0.0.1:{port}: "):
        async with open_transport(f"nats://127.0.0.1:{port}", context):
            pass


async def test_a_server_without_jetstream_is_misconfigured(context: AdapterContext, tmp_path: Path) -> None:
    with _Guarded(tmp_path, settings="jetstream: disabled") as server:
        with pytest.raises((Misconfigured, TransportUnavailable), match="jetstream"):
            async with open_transport(f"nats://127.0.0.1:{server.port}?timeout=1s", context):
                pass


async def test_a_server_with_too_small_messages_is_misconfigured(context: AdapterContext, tmp_path: Path) -> None:
    with NatsServer(tmp_path, max_payload_bytes=500_000) as server, pytest.raises(Misconfigured, match="max_payload"):
        async with open_transport(server.url, context):
            pass


# -- logins -------------------------------------------------------------------------------------------------------------

USERS = f"""
authorization {{
  users: [
    {{ user: "ann", password: "{SECRET}" }}
    {{ user: "reads", password: "{SECRET}", permissions: {{
       publish: {{ allow: ["$JS.API.>", "$KV.>"] }}, subscribe: {{ allow: ["_INBOX.>", "$KV.>"] }} }} }}
    {{ user: "half", password: "{SECRET}", permissions: {{ publish: {{ deny: ["half.1"] }} }} }}
    {{ user: "nothing", password: "{SECRET}", permissions: {{ publish: {{ deny: [">"] }} }} }}
  ]
}}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Guarded]:
    with _Guarded(tmp_path_factory.mktemp("nats"), settings=USERS) as server:
        yield server


async def test_a_login_in_the_url_works(context: AdapterContext, guarded: NatsServer, topic: str) -> None:
    await works(open_transport(f"nats://ann:{SECRET}@127.0.0.1:{guarded.port}", context), topic)


async def test_a_token_in_the_url_works(context: AdapterContext, tmp_path: Path, topic: str) -> None:
    with _Guarded(tmp_path, settings='authorization { token: "a/token" }') as server:
        await works(open_transport(f"nats://a%2Ftoken@127.0.0.1:{server.port}", context), topic)


@pytest.mark.parametrize("login", ["", "ann:wrong-pass@", "nobody:wrong-pass@", "wrong-pass@"])
async def test_a_refused_login_is_misconfigured_and_shows_no_secret(
    context: AdapterContext, guarded: NatsServer, login: str
) -> None:
    with pytest.raises(Misconfigured, match="login") as refused:
        async with open_transport(f"nats://{login}127.0.0.1:{guarded.port}", context):
            pass
    assert "wrong-pass" not in str(refused.value)


async def test_a_topic_that_one_may_not_publish_to_refuses_its_records(
    context: AdapterContext, guarded: NatsServer, topic: str
) -> None:
    async with open_transport(f"nats://ann:{SECRET}@127.0.0.1:{guarded.port}", context) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
    async with open_transport(f"nats://reads:{SECRET}@127.0.0.1:{guarded.port}", context) as log:
        for count in (1, 20):
            with pytest.raises(RecordRefused, match=topic) as refused:
                await log.publish(topic, 0, keyed("k", *range(count)))
            assert refused.value.index == 0
        assert values(await everything(log, topic, 0)) == ["k:1"]


async def test_a_partition_that_one_may_not_publish_to_holds_up_no_other(
    context: AdapterContext, guarded: NatsServer, topic: str
) -> None:
    async with open_transport(f"nats://ann:{SECRET}@127.0.0.1:{guarded.port}", context) as log:
        await log.provision("half", 2)
    async with open_transport(f"nats://half:{SECRET}@127.0.0.1:{guarded.port}", context) as log:
        for count in (2, 30):
            publishing = [
                asyncio.get_running_loop().create_task(log.publish("half", partition, keyed("k", *range(count))))
                for partition in (0, 1)
            ]
            await asyncio.wait(publishing)
            assert publishing[0].result() == count
            assert isinstance(publishing[1].exception(), RecordRefused)


async def test_a_user_without_jetstream_is_misconfigured(context: AdapterContext, guarded: NatsServer) -> None:
    with pytest.raises(Misconfigured, match=r"\$JS\.API"):
        async with open_transport(f"nats://nothing:{SECRET}@127.0.0.1:{guarded.port}", context):
            pass


# -- TLS ----------------------------------------------------------------------------------------------------------------


async def test_tls_with_a_private_authority_and_a_client_certificate(
    context: AdapterContext, tmp_path: Path, topic: str
) -> None:
    certificate(tmp_path)
    tls = (
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem", '
        f'ca_file: "{tmp_path}/cert.pem", verify: true }}'
    )
    with _Guarded(tmp_path / "server", settings=tls) as server:
        url = f"nats://127.0.0.1:{server.port}?tls_ca={tmp_path}/cert.pem"
        await works(open_transport(f"{url}&tls_cert={tmp_path}/cert.pem&tls_key={tmp_path}/key.pem", context), topic)
        with pytest.raises(Misconfigured, match="TLS"):
            async with open_transport(f"nats://127.0.0.1:{server.port}", context):
                pass


def certificate(folder: Path) -> None:
    """A self-signed one for the loopback address, for a server and its clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


# -- durability ---------------------------------------------------------------------------------------------------------


async def test_durability_is_what_the_url_states_and_the_streams_show(
    context: AdapterContext, server: NatsServer, topic: str
) -> None:
    async with open_transport(server.url, context) as log:
        await log.provision(topic, 1)
        durability = await log.durability()
        assert (durability.process_crash, durability.power_loss, durability.why_not) == (True, True, "")
    for stated, said in (("", "no client can read it"), ("?sync=2m", "the URL says 2m")):
        async with open_transport(f"nats://127.0.0.1:{server.port}{stated}", context) as log:
            durability = await log.durability()
            assert durability.process_crash
            assert not durability.power_loss
            assert said in durability.why_not
            assert "sync_interval must be always" in durability.why_not


async def test_streams_that_are_weaker_than_asked_for_are_named(
    context: AdapterContext, server: NatsServer, topic: str
) -> None:
    subject = topic.encode()
    answer = server.ask(
        f"$JS.API.STREAM.CREATE.{topic}",
        b'{"name": "%s", "subjects": ["%s.*"], "storage": "memory", "metadata": {"millstream.partitions": "1"}}'
        % (subject, subject),
    )
    assert "error" not in answer
    async with open_transport(f"{server.url}&replicas=3", context) as log:
        assert await log.partitions(topic) == 1
        durability = await log.durability()
        assert not durability.process_crash
        assert not durability.power_loss
        for problem in (f"stream {topic}: storage is memory", "has 1 replicas, the URL asks for 3"):
            assert problem in durability.why_not
        with pytest.raises(Misconfigured, match="replicas"):
            await log.provision(f"{topic}-2", 1)
