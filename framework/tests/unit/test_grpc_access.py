"""Who may call over gRPC, and for whom: forged passports are refused, with a shared key and with mutual TLS."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from millstream import Caller
from millstream.contracts import Status
from millstream.errors import Misconfigured
from millstream.grpc.passport import PASSPORT, PROOF, MutualTls, SharedKey, write_passport
from millstream.grpc.tls import Certificates, read_certificates, shared_key
from millstream.ids import SystemEntropy

from .authority import Authority
from .grpc_bench import ALICE, CLOCK, KEY, Bench, Stock, benched, error_of

WHO = "/shop.v1.Stock/Who"
REQUEST = StringValue(value="x").SerializeToString()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as made:
        yield made


async def who(bench: Bench, *metadata: tuple[str, str | bytes], request: bytes = REQUEST, path: str = WHO) -> Any:
    """The status of a call with exactly this metadata, and its answer."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.server.port}") as channel:
        try:
            answer = await channel.unary_unary(path)(request, metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code().value[0]
    return StringValue.FromString(answer).value


def proof(path: str = WHO, passport: bytes = b"", request: bytes = REQUEST, age_us: int = 0) -> bytes:
    made = KEY.prove(path, passport, request, CLOCK.now_us() - age_us)
    assert made is not None
    return made


PASS = write_passport(ALICE)


async def test_a_passport_with_its_proof_is_believed(bench: Bench) -> None:
    assert await who(bench, (PASSPORT, PASS), (PROOF, proof(passport=PASS))) == "älice"


@pytest.mark.parametrize(
    "forge",
    [
        lambda: [(PASSPORT, PASS)],
        lambda: [(PASSPORT, PASS), (PROOF, b"")],
        lambda: [(PASSPORT, PASS), (PROOF, bytes(40))],
        lambda: [(PASSPORT, PASS), (PROOF, proof(passport=write_passport(Caller("bob"))))],
        lambda: [(PASSPORT, PASS), (PROOF, proof(passport=PASS, path="/shop.v1.Stock/Take"))],
        lambda: [(PASSPORT, PASS), (PROOF, proof(passport=PASS, request=b"another"))],
        lambda: [(PASSPORT, PASS), (PROOF, proof(passport=PASS, age_us=61_000_000))],
        lambda: [(PASSPORT, PASS), (PROOF, proof(passport=PASS, age_us=-61_000_000))],
        lambda: [(PASSPORT, PASS), (PROOF, proof(passport=PASS)[:-1])],
        lambda: [(PASSPORT, PASS), (PROOF, SharedKey(b"o" * 32).prove(WHO, PASS, REQUEST, CLOCK.now_us()))],
        # A token of one's own does not make a forged passport better.
        lambda: [(PASSPORT, PASS), ("authorization", "Bearer robot|service")],
        lambda: [(PASSPORT, b"{}"), (PROOF, proof(passport=b"{}"))],
    ],
    ids=[
        "no proof", "empty proof", "zeros", "of another passport", "of another method", "of another request", "too old",
        "from the future", "cut", "another key", "with a token", "no passport",
    ],
)  # fmt: skip
async def test_a_forged_passport_is_refused(bench: Bench, forge: Callable[[], list[Any]]) -> None:
    assert await who(bench, *forge()) == Status.UNAUTHENTICATED
    assert bench.inside.callers == []


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ([], Status.UNAUTHENTICATED),
        ([("authorization", "Bearer |")], Status.UNAUTHENTICATED),
        ([("authorization", "Basic robot")], Status.UNAUTHENTICATED),
        ([("authorization", "Bearer ann|user")], Status.PERMISSION_DENIED),
        ([("authorization", "Bearer ann|operator,services")], Status.PERMISSION_DENIED),
    ],
)
async def test_a_client_needs_a_token_with_the_role_of_a_service_account(
    bench: Bench, metadata: list[tuple[str, str]], status: int
) -> None:
    assert await who(bench, *metadata) == status
    assert bench.inside.callers == []


async def test_a_client_with_a_token_of_its_own_calls_for_itself_only(bench: Bench) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    metadata = (
        ("authorization", "Bearer robot|service,stock"), ("idempotency-key", "k1"), ("x-request-id", "r1"),
        ("traceparent", trace),
    )  # fmt: skip
    assert await who(bench, *metadata) == "robot"
    [caller] = bench.inside.callers
    assert caller.deadline_us is not None
    expected = Caller("robot", ("service", "stock"), None, "k1", caller.deadline_us, trace, "r1")
    assert caller == expected


async def test_a_channel_with_another_key_is_refused(bench: Bench) -> None:
    error = await error_of(Stock(bench.channel(trust=SharedKey(b"x" * 32))).who(StringValue(), caller=ALICE))
    assert (error.status, error.problem) == (Status.UNAUTHENTICATED, "unauthenticated")


# -- the key file -----------------------------------------------------------------------------------------------------


def test_the_shared_key_makes_itself_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "var" / "grpc.key"
    first = shared_key(path, SystemEntropy())
    assert shared_key(path, SystemEntropy()) == first
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["grpc.key"]
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        shared_key(path, SystemEntropy())
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(Misconfigured, match="remove it"):
        shared_key(path, SystemEntropy())


# -- mutual TLS -------------------------------------------------------------------------------------------------------


async def test_with_mutual_tls_the_certificate_is_the_proof(bench: Bench) -> None:
    authority = Authority()
    server = bench.new_server(MutualTls(), authority.issue("stock"))
    await server.start("127.0.0.1", 0)
    try:
        gateway = bench.channel(server.port, trust=MutualTls(), certificates=authority.issue("gateway"))
        answer = await Stock(gateway).who(StringValue(), caller=ALICE)
        assert answer.value == "älice"
        assert await gateway.serving(Stock.service)

        stranger = Authority().issue("gateway")
        for certificates in (None, stranger, Certificates(stranger.cert, stranger.key, authority.pem)):
            forger = bench.channel(server.port, trust=MutualTls(), certificates=certificates)
            error = await error_of(Stock(forger).who(StringValue(), caller=ALICE, timeout=0.5))
            assert error.status == Status.UNAVAILABLE, "the handshake does not succeed"
        assert len(bench.inside.callers) == 1
    finally:
        await server.close(0)


async def test_with_named_peers_only_those_may_speak_for_others(bench: Bench) -> None:
    authority = Authority()
    server = bench.new_server(MutualTls(["gateway"]), authority.issue("stock"))
    await server.start("127.0.0.1", 0)
    try:
        for name, status in (("gateway", None), ("reports", Status.UNAUTHENTICATED)):
            stock = Stock(bench.channel(server.port, trust=MutualTls(), certificates=authority.issue(name)))
            if status is None:
                assert (await stock.who(StringValue(), caller=ALICE)).value == "älice"
            else:
                assert (await error_of(stock.who(StringValue(), caller=ALICE))).status == status
        certificates = authority.issue("reports")
        credentials = certificates.for_client()
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
            metadata = (("authorization", "Bearer robot|service"),)
            answer = await channel.unary_unary(WHO)(REQUEST, metadata=metadata, timeout=5)
            assert StringValue.FromString(answer).value == "robot", "with a token it may speak for itself"
    finally:
        await server.close(0)


def test_certificates_are_read_from_paths_or_text_and_every_problem_is_named(tmp_path: Path) -> None:
    issued = Authority().issue("stock")
    assert read_certificates("", "", "") is None
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(issued.cert)
    key.write_bytes(issued.key)
    assert read_certificates(str(cert), str(key), issued.ca.decode()) == issued
    assert "PRIVATE" not in repr(issued)
    cert.write_text("no PEM")
    with pytest.raises(Misconfigured) as caught:
        read_certificates(str(cert), str(tmp_path / "nothing"), "")
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["grpc.cert", "grpc.key", "grpc.ca"]
