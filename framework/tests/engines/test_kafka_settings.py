"""The URL of the Kafka log, and logins over TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.ports.instrumentation import Silent
from millstream.runtime import adapters
from millstream.runtime.adapters import AdapterContext
from millstream.testing.conformance.transport_case import everything, keyed, values, within
from millstream.testing.engines.kafka import KafkaServer
from millstream.transports.kafka import KafkaTransport, open_transport

SECRET = "s3cret/p@ss"
ESCAPED = "s3cret%2Fp%40ss"


@pytest.fixture
def context(tmp_path: Path) -> AdapterContext:
    return AdapterContext(tmp_path, SystemClock(), Silent())


# -- the URL ------------------------------------------------------------------------------------------------------------


def test_every_problem_of_a_url_is_listed_and_none_shows_the_password(context: AdapterContext, tmp_path: Path) -> None:
    url = (
        f"kafka://ann:s3cret@one:9092,:17,two:no,three:70000/path?acks=1&replication=2&min_insync=3&keep=long&timeout=0s"
        f"&flush=perhaps&largest_record_bytes=10&sasl=GUESS&ca={tmp_path}/missing"
    )
    with pytest.raises(Misconfigured) as refused:
        open_transport(url, context)
    for wrong in (
        "unknown option 'acks'; there are replication, min_insync,",
        "':17'",
        "'two:no'",
        "'three:70000'",
        "'/path'",
        "min_insync=3 is more than replication=2",
        "keep: 'long' is no duration",
        "timeout: it is more than nothing",
        "flush=perhaps: Expected `bool`",
        "largest_record_bytes=10: it is at least 1024",
        "sasl=GUESS: there are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
        "ca is for tls=true",
        "missing: there is no such file",
    ):
        assert wrong in str(refused.value)
    assert len(refused.value.problems) == 13
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://ann:s3/cret@one:9092",
        "kafka://ann:s3?cret@one",
        "kafka://ann:s3#cret@one",
        "kafka://ann:s3@cret@one",
        "kafka://ann:s3 cret@one",
    ],
)
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(url: str, context: AdapterContext) -> None:
    with pytest.raises(Misconfigured, match="percent-encoded") as refused:
        open_transport(url, context)
    assert "s3" not in str(refused.value)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("kafka://", "say where the brokers are"),
        ("kafka:", "say where the brokers are"),
        ("kafka://ann@one", "give user and password, or neither"),
        ("kafka://ann:@one", "give user and password, or neither"),
        ("kafka://one,,two", "'' is no host:port"),
        ("kafka://one?sasl=PLAIN", "sasl is for user and password"),
        ("kafka://one?replication=0", "replication=0: it is at least 1"),
        ("kafka://one?min_insync=0", "min_insync=0: it is at least 1"),
        ("kafka://one?keep=-1s", "keep: '-1s' is no duration"),
        ("kafka://one?timeout=0s", "timeout: it is more than nothing"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, problem: str, context: AdapterContext) -> None:
    with pytest.raises(Misconfigured) as refused:
        open_transport(url, context)
    assert problem in str(refused.value)
    assert len(refused.value.problems) == 1


def test_a_url_has_every_option(context: AdapterContext, tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.touch()
    log = open_transport(
        f"kafka://ann:{ESCAPED}@one,two:19092,[::1]:9093/?replication=3&min_insync=2&keep=14d&flush=true"
        f"&largest_record_bytes=5000000&timeout=2500ms&tls=true&ca={authorities}&sasl=SCRAM-SHA-512",
        context,
    )
    options, connection = log._options, log._connection
    assert (options.replication, options.min_insync, options.keep_seconds) == (3, 2, 14 * 86_400)
    assert (options.flush, options.largest_record_bytes, options.wait_seconds) == (True, 5_000_000, 2.5)
    settings = connection.settings()
    assert settings["bootstrap.servers"] == "one:9092,two:19092,[::1]:9093"
    assert (settings["sasl.username"], settings["sasl.password"]) == ("ann", SECRET)
    assert (settings["sasl.mechanism"], settings["security.protocol"]) == ("SCRAM-SHA-512", "SASL_SSL")
    assert settings["ssl.ca.location"] == str(authorities)
    assert log.capabilities.largest_record_bytes == 5_000_000
    assert SECRET not in repr(connection)


def test_a_record_is_kept_for_a_week_or_as_long_as_the_runtime_asks(tmp_path: Path) -> None:
    for asked, kept in ((0.0, 7 * 86_400.0), (30 * 86_400.0, 30 * 86_400.0)):
        context = AdapterContext(tmp_path, SystemClock(), Silent(), keep_seconds=asked)
        log = adapters.open_transport("kafka://one", context)
        assert isinstance(log, KafkaTransport)
        assert log._options.keep_seconds == kept


# -- logins over TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Secured]:
    with _Secured(tmp_path_factory.mktemp("secured-kafka")) as server:
        yield server


class _Secured(KafkaServer):
    """Lets its user in at `guarded` by SCRAM over TLS."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "authority.pem"
        identity = folder / "identity.pem"
        super().__init__(
            folder,
            {
                "sasl.enabled.mechanisms": "SCRAM-SHA-256",
                "listener.name.guarded.scram-sha-256.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL",
                "listener.name.guarded.ssl.keystore.type": "PEM",
                "listener.name.guarded.ssl.keystore.location": str(identity),
            },
        )
        write_certificate(self.authority, identity)


def write_certificate(authority: Path, identity: Path) -> None:
    """One for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    authority.write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    identity.write_bytes(private + pem)


async def test_a_login_by_scram_over_tls(secured: _Secured, context: AdapterContext) -> None:
    admin = AdminClient({"bootstrap.servers": secured.bootstrap, "log_level": 0})
    upsert = UserScramCredentialUpsertion(
        secured.user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), SECRET.encode()
    )
    await asyncio.to_thread(admin.alter_user_scram_credentials([upsert])[secured.user].result, 10)
    options = f"?tls=true&ca={secured.authority}&sasl=SCRAM-SHA-256&timeout=3s"
    async with open_transport(f"kafka://{secured.user}:{ESCAPED}@{secured.guarded}{options}", context) as log:
        topic = f"secured-{random.randrange(10**6)}"
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", *range(20)))
        assert values(await everything(log, topic, 0)) == [f"k:{number}" for number in range(20)]
    for wrong, why in (
        (f"wr0ng@{secured.guarded}{options}", "Authentication failed"),
        (f"{ESCAPED}@{secured.guarded}?tls=true&sasl=SCRAM-SHA-256&timeout=1s", "certificate"),  # nobody vouches for it
    ):
        async with open_transport(f"kafka://{secured.user}:{wrong}", context) as log:
            with pytest.raises((TransportUnavailable, Misconfigured), match=why) as refused:
                await within(log.partitions("secured"))
            assert SECRET not in str(refused.value)
            assert "wr0ng" not in str(refused.value)
