"""The payments path: from an order to its payment, its booking and its notification, as four services."""

from __future__ import annotations

from millstream import Service

from .gateway.service import gateway
from .notifications.service import notifications
from .orders.service import orders
from .payments.service import payments

__all__ = ["all"]

all: tuple[Service, ...] = (gateway, orders, payments, notifications)  # noqa: A001 - read as payments_path:all
