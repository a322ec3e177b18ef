"""Clients that have only the .proto: a generated stub, health checks and reflection, as any gRPC tool uses them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

from .grpc_bench import Bench, benched

PROTO = """\
syntax = "proto3";
package shop.v1;
import "google/protobuf/wrappers.proto";
service Stock {
  rpc Take(google.protobuf.StringValue) returns (google.protobuf.Int64Value);
  rpc Who(google.protobuf.StringValue) returns (google.protobuf.StringValue);
}
"""
ROBOT = (("authorization", "Bearer robot|service"), ("idempotency-key", "k1"))


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What a stranger generates from the .proto, in their own language."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "stranger_stock.proto").write_text(PROTO)
    includes = str(Path(importlib.import_module("grpc_tools").__file__ or "").parent / "_proto")
    done = protoc.main(
        ["", f"-I{folder}", f"-I{includes}", f"--python_out={folder}", f"--grpc_python_out={folder}",
         "stranger_stock.proto"]
    )  # fmt: skip
    assert done == 0
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("stranger_stock_pb2")  # as a service's own code does with its generated messages
        yield importlib.import_module("stranger_stock_pb2_grpc").StockStub
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as made:
        yield made


@pytest.fixture
async def channel(bench: Bench) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.server.port}") as opened:
        yield opened


async def test_a_generated_stub_calls_with_a_token(bench: Bench, channel: grpc.aio.Channel, stub: Any) -> None:
    from google.protobuf.wrappers_pb2 import StringValue

    stranger = stub(channel)
    assert (await stranger.Take(StringValue(value="pen"), metadata=ROBOT)).value == 1
    assert (await stranger.Take(StringValue(value="pen"), metadata=ROBOT)).value == 1
    assert bench.inside.calls == 1


async def test_a_stranger_reads_an_error_with_the_standard_details(
    bench: Bench, channel: grpc.aio.Channel, stub: Any
) -> None:
    from google.protobuf.wrappers_pb2 import StringValue
    from google.rpc import error_details_pb2, status_pb2

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(channel).Take(StringValue(value="sold-out"), metadata=ROBOT)
    error = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "sold out ☹")
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, places = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(places)
    assert (status.code, info.reason, places.field_violations[0].field) == (9, "sold-out", "sku")


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/shop.v1.Stock/Missing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_answers_for_the_server_and_each_service_until_it_drains(
    bench: Bench, channel: grpc.aio.Channel
) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)

    async def status(service: str) -> int:
        return (await health.Check(health_pb2.HealthCheckRequest(service=service))).status

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert [await status(""), await status("shop.v1.Stock")] == [serving, serving]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status("shop.v1.Elsewhere")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await bench.server.drain()
    assert [await status(""), await status("shop.v1.Stock")] == [not_serving, not_serving]


async def test_reflection_names_the_services_and_hands_out_their_files(channel: grpc.aio.Channel, stub: Any) -> None:
    generated: Any = reflection_pb2_grpc  # its types know no asyncio
    reflection = generated.ServerReflectionStub(channel)

    async def ask(**asked: Any) -> Any:
        async for answer in reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**asked)])):
            return answer
        raise AssertionError("no answer")

    names = [one.name for one in (await ask(list_services="")).list_services_response.service]
    assert {"shop.v1.Stock", "grpc.health.v1.Health"} <= set(names)
    found = await ask(file_containing_symbol="shop.v1.Stock")
    [file, *_] = found.file_descriptor_response.file_descriptor_proto
    declared = FileDescriptorProto.FromString(file)
    assert [method.name for method in declared.service[0].method] == ["Take", "Who"]
