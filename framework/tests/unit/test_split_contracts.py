"""What a split system's contracts are on the wire: gRPC with health and reflection, and mutual TLS when it is configured.

Real processes, asked by a plain gRPC client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from .authority import Authority
from .split_system import SplitSystem

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture(params=["key file", "certificates"])
def system(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> Iterator[SplitSystem]:
    settings: dict[str, str] = {}
    if request.param == "certificates":
        own = authority.issue("millstream.internal")
        for name, pem in (("cert", own.cert), ("key", own.key), ("ca", own.ca)):
            (tmp_path / f"{name}.pem").write_bytes(pem)
            settings[f"GRPC__{name.upper()}"] = str(tmp_path / f"{name}.pem")
        settings["GRPC__PEERS"] = "millstream.internal"
    made = SplitSystem(tmp_path, **settings)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_processes_call_each_other_and_strangers_learn_no_more_than_they_may(
    system: SplitSystem, authority: Authority
) -> None:
    assert system.note("a note").json() == {"by": "ann"}, "the caller's name crosses"
    secured = bool(system.settings)
    assert (system.data / "grpc.key").exists() != secured, "one of both proves who calls"

    address = f"127.0.0.1:{_port_of(system, 'back-0')}"
    if not secured:
        with grpc.insecure_channel(address) as channel:
            _look(channel)
        return
    with grpc.secure_channel(address, authority.issue("monitoring").for_client()) as channel:
        _look(channel)
    for stranger in (
        grpc.insecure_channel(address),
        grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.pem)),
        grpc.secure_channel(address, Authority().issue("millstream.internal").for_client()),
    ):
        with stranger as channel, pytest.raises(grpc.RpcError) as refused:
            _health(channel)
        assert _code(refused.value) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _look(channel: grpc.Channel) -> None:
    """Who may connect sees that it serves, and what; a call needs more."""
    assert _health(channel) == SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # its stubs know no types
    answers = stub.ServerReflectionInfo(iter([request]), timeout=10)
    listed = {service.name for answer in answers for service in answer.list_services_response.service}
    assert listed >= {"test.v1.Back", "grpc.health.v1.Health"}
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/test.v1.Back/Pid")(b"", timeout=10)
    assert _code(refused.value) is grpc.StatusCode.UNAUTHENTICATED


def _health(channel: grpc.Channel) -> Any:
    request = health_pb2.HealthCheckRequest(service="test.v1.Back")
    stub: Any = health_pb2_grpc.HealthStub(channel)  # as above
    return stub.Check(request, timeout=10).status


def _code(error: grpc.RpcError) -> Any:
    assert isinstance(error, grpc.Call)
    return error.code()


def _port_of(system: SplitSystem, process: str) -> int:
    lines = (json.loads(line) for line in system.log.read_text().splitlines() if line.startswith("{"))
    return next(line["port"] for line in lines if line["event"] == "grpc_listens" and line["process"] == process)
