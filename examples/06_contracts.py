"""A contract between two services: one serves it, the other calls it through a typed client.

Run it: .venv/bin/python examples/06_contracts.py

The messages are generated from proto/millstream/notifications/v1/notifications.proto. In one process the call passes the
same bytes, deadlines and errors as between processes, so that no service comes to depend on sharing memory.
"""

import asyncio

from millstream import Caller, Event, Query, Service, Tx
from millstream.contracts import Contract, RpcError, Status, rpc
from millstream.testing.harness import Harness
from millstream_services.contracts.gen.notifications.v1 import notifications_pb2 as pb


class Notifications(Contract, service="millstream.notifications.v1.NotificationsService"):
    """The typed client. Who asks for it as a parameter gets one."""

    list_notifications = rpc("ListNotifications", pb.ListNotificationsRequest, pb.ListNotificationsResponse)


class LetterSent(Event, topic="letters", key="order"):
    order: str
    kind: str


courier = Service("courier", migrations="sql/courier")  # owns the letters, and serves the contract


@courier.on(LetterSent, name="note-letter")
async def note(event: LetterSent, tx: Tx) -> None:
    await tx.execute("INSERT INTO letters VALUES (?, ?, ?)", event.order, event.kind, tx.now_us)


@courier.rpc(Notifications.list_notifications)
async def list_letters(
    request: pb.ListNotificationsRequest, caller: Caller, query: Query
) -> pb.ListNotificationsResponse:
    rows = await query.fetch("SELECT kind, at FROM letters WHERE order_id = ? ORDER BY rowid", request.order_id)
    if not rows:
        raise RpcError(Status.NOT_FOUND, f"{caller.subject} has no order {request.order_id}")
    found = [pb.Notification(order_id=request.order_id, kind=kind, at_us=at) for kind, at in rows]
    return pb.ListNotificationsResponse(notifications=found)


desk = Service("desk")  # owns nothing, and calls


@desk.get("/letters/{order_id}")
async def letters(order_id: str, caller: Caller, notifications: Notifications) -> list[str]:
    # The caller goes along: who asks, until when they wait, and their trace.
    found = await notifications.list_notifications(pb.ListNotificationsRequest(order_id=order_id), caller=caller)
    return [notification.kind for notification in found.notifications]


async def main() -> None:
    async with Harness(courier, desk, subject="ann") as ms:
        await ms.publish(LetterSent("o1", "order.confirmed"))
        await ms.quiet()
        print("o1:", await ms.get("/letters/o1"))
        refused = await ms.call("GET", "/letters/o2")
        print("o2:", refused.status, refused.json()["detail"])


if __name__ == "__main__":
    asyncio.run(main())
