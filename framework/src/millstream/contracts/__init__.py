"""Typed calls between services. What services name is here; what the runtime builds with is in the modules."""

from ..service.contract import Contract, RpcError, Status, rpc

__all__ = ["Contract", "RpcError", "Status", "rpc"]
