"""The calls of the orders service."""

from __future__ import annotations

from typing import cast

from millstream.contracts import Contract, rpc

from .gen.orders.v1 import orders_pb2 as pb

__all__ = ["Orders", "pb", "state_name", "state_number"]

_PREFIX = "ORDER_STATE_"
_NAMES = {number: name.removeprefix(_PREFIX) for name, number in pb.OrderState.items()}
_NUMBERS = {name: cast(pb.OrderState, number) for number, name in _NAMES.items()}


class Orders(Contract, service="millstream.orders.v1.OrdersService"):
    """A client of the orders service; see proto/millstream/orders/v1/orders.proto."""

    place_order = rpc("PlaceOrder", pb.PlaceOrderRequest, pb.PlaceOrderResponse)
    get_order = rpc("GetOrder", pb.GetOrderRequest, pb.GetOrderResponse)
    list_orders = rpc("ListOrders", pb.ListOrdersRequest, pb.ListOrdersResponse)
    cancel_order = rpc("CancelOrder", pb.CancelOrderRequest, pb.CancelOrderResponse)
    advance_order = rpc("AdvanceOrder", pb.AdvanceOrderRequest, pb.AdvanceOrderResponse)


def state_name(number: int) -> str:
    """`PENDING` for ORDER_STATE_PENDING; the number as text for one that this version does not know."""
    return _NAMES.get(number) or str(number)


def state_number(name: str) -> pb.OrderState:
    """ORDER_STATE_PENDING for `PENDING`; ORDER_STATE_UNSPECIFIED for what is no state."""
    return _NUMBERS.get(name, pb.ORDER_STATE_UNSPECIFIED)
