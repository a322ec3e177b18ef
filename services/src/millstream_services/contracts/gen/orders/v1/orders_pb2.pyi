from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OrderState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_STATE_UNSPECIFIED: _ClassVar[OrderState]
    ORDER_STATE_PENDING: _ClassVar[OrderState]
    ORDER_STATE_CONFIRMED: _ClassVar[OrderState]
    ORDER_STATE_PREPARING: _ClassVar[OrderState]
    ORDER_STATE_OUT_FOR_DELIVERY: _ClassVar[OrderState]
    ORDER_STATE_DELIVERED: _ClassVar[OrderState]
    ORDER_STATE_CANCELLED: _ClassVar[OrderState]
    ORDER_STATE_FAILED: _ClassVar[OrderState]
ORDER_STATE_UNSPECIFIED: OrderState
ORDER_STATE_PENDING: OrderState
ORDER_STATE_CONFIRMED: OrderState
ORDER_STATE_PREPARING: OrderState
ORDER_STATE_OUT_FOR_DELIVERY: OrderState
ORDER_STATE_DELIVERED: OrderState
ORDER_STATE_CANCELLED: OrderState
ORDER_STATE_FAILED: OrderState

class OrderLine(_message.Message):
    __slots__ = ("product", "quantity", "amount")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    product: str
    quantity: int
    amount: int
    def __init__(self, product: _Optional[str] = ..., quantity: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class OrderPayment(_message.Message):
    __slots__ = ("id", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class OrderStateChange(_message.Message):
    __slots__ = ("state", "at_us")
    STATE_FIELD_NUMBER: _ClassVar[int]
    AT_US_FIELD_NUMBER: _ClassVar[int]
    state: OrderState
    at_us: int
    def __init__(self, state: _Optional[_Union[OrderState, str]] = ..., at_us: _Optional[int] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("id", "state", "customer", "currency", "lines", "total", "created_at_us", "payment", "history", "owner")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_US_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: OrderState
    customer: str
    currency: str
    lines: _containers.RepeatedCompositeFieldContainer[OrderLine]
    total: int
    created_at_us: int
    payment: OrderPayment
    history: _containers.RepeatedCompositeFieldContainer[OrderStateChange]
    owner: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[OrderState, str]] = ..., customer: _Optional[str] = ..., currency: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[OrderLine, _Mapping]]] = ..., total: _Optional[int] = ..., created_at_us: _Optional[int] = ..., payment: _Optional[_Union[OrderPayment, _Mapping]] = ..., history: _Optional[_Iterable[_Union[OrderStateChange, _Mapping]]] = ..., owner: _Optional[str] = ...) -> None: ...

class PlaceOrderRequest(_message.Message):
    __slots__ = ("customer", "currency", "lines", "total", "payment_method")
    CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_METHOD_FIELD_NUMBER: _ClassVar[int]
    customer: str
    currency: str
    lines: _containers.RepeatedCompositeFieldContainer[OrderLine]
    total: int
    payment_method: str
    def __init__(self, customer: _Optional[str] = ..., currency: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[OrderLine, _Mapping]]] = ..., total: _Optional[int] = ..., payment_method: _Optional[str] = ...) -> None: ...

class PlaceOrderResponse(_message.Message):
    __slots__ = ("id", "state", "created_at_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_US_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: OrderState
    created_at_us: int
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[OrderState, str]] = ..., created_at_us: _Optional[int] = ...) -> None: ...

class GetOrderRequest(_message.Message):
    __slots__ = ("id", "payment_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    payment_id: str
    def __init__(self, id: _Optional[str] = ..., payment_id: _Optional[str] = ...) -> None: ...

class GetOrderResponse(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: Order
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ...) -> None: ...

class ListOrdersRequest(_message.Message):
    __slots__ = ("limit", "after")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    limit: int
    after: str
    def __init__(self, limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class ListOrdersResponse(_message.Message):
    __slots__ = ("orders", "next")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    next: str
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class CancelOrderRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelOrderResponse(_message.Message):
    __slots__ = ("order", "done")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    order: Order
    done: bool
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., done: _Optional[bool] = ...) -> None: ...

class AdvanceOrderRequest(_message.Message):
    __slots__ = ("id", "to")
    ID_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    id: str
    to: OrderState
    def __init__(self, id: _Optional[str] = ..., to: _Optional[_Union[OrderState, str]] = ...) -> None: ...

class AdvanceOrderResponse(_message.Message):
    __slots__ = ("order", "done")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    order: Order
    done: bool
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., done: _Optional[bool] = ...) -> None: ...
