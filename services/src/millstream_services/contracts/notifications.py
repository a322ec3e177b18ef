"""The calls of the notifications service."""

from __future__ import annotations

from millstream.contracts import Contract, rpc

from .gen.notifications.v1 import notifications_pb2 as pb

__all__ = ["Notifications", "pb"]


class Notifications(Contract, service="millstream.notifications.v1.NotificationsService"):
    """A client of the notifications service; see proto/millstream/notifications/v1/notifications.proto."""

    list_notifications = rpc("ListNotifications", pb.ListNotificationsRequest, pb.ListNotificationsResponse)
