"""The driver, grpcio. It ships without complete types: here it becomes `Any`, and whoever uses it narrows at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import grpc as _grpc
import grpc.aio as _aio

__all__ = [
    "METADATA_BYTES",
    "Metadata",
    "add_health",
    "add_reflection",
    "aio",
    "code_of",
    "grpc",
    "health_library",
    "number_of",
    "size_options",
]

grpc: Any = _grpc
aio: Any = _aio

Metadata = tuple[tuple[str, str | bytes], ...]

METADATA_BYTES = 65_536
"""Bound of all metadata of a message, in both directions: rich errors do not fit into the default of 8 KiB."""
FRAMING_BYTES = 1_024
"""A body at the limit of the HTTP edge still fits into the message that carries it on."""

_CODES: dict[int, Any] = {code.value[0]: code for code in _grpc.StatusCode}


def code_of(status: int) -> Any:
    """The driver's constant for a status by number; an unknown number is UNKNOWN, as the protocol says."""
    return _CODES.get(status, _grpc.StatusCode.UNKNOWN)


def number_of(code: Any) -> int:
    """The number of the driver's constant."""
    return int(code.value[0])


def size_options(body_bytes: int) -> list[tuple[str, Any]]:
    """Options of both sides: what is the largest message, and the most metadata."""
    largest = body_bytes + FRAMING_BYTES
    return [
        ("grpc.max_send_message_length", largest),
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES),
    ]


def health_library() -> tuple[Any, Any]:
    """The servicer of grpc.health.v1, and its messages."""
    return import_module("grpc_health.v1.health"), import_module("grpc_health.v1.health_pb2")


def add_health(servicer: Any, server: Any) -> None:
    """Serve grpc.health.v1."""
    import_module("grpc_health.v1.health_pb2_grpc").add_HealthServicer_to_server(servicer, server)


def add_reflection(names: Sequence[str], server: Any) -> None:
    """Serve reflection over these services and itself. Their files are found among the generated modules that were
    imported, which the owner of a contract has done."""
    reflection: Any = import_module("grpc_reflection.v1alpha.reflection")
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
