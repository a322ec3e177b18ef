"""Django publishes events with its own transactions, and handles each message once. Only the relay is Millstream's.

Run it: .venv/bin/python examples/11_django.py
"""

# Django ships no types.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
import asyncio
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import django
from django.conf import settings
from django.db import IntegrityError, connection, models, transaction
from millstream import Event
from millstream.adoption import Inbox, Outbox, tables
from millstream.clock import SystemClock
from millstream.message import Message, decode_message
from millstream.transports.log import LogTransport

folder = TemporaryDirectory(prefix="millstream-")
database, log = Path(folder.name, "shop.sqlite3"), Path(folder.name, "log.db")
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}})
django.setup()


class Order(models.Model):
    id = models.CharField(primary_key=True, max_length=20)

    class Meta:
        app_label = "shop"


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str


outbox, inbox = Outbox("shop"), Inbox()  # one of each for the application: they open nothing


@transaction.atomic
def place(order_id: str) -> None:
    outbox.publish(OrderPlaced(order_id), connection=connection)  # leaves with the commit, or not at all
    Order.objects.create(id=order_id)


@transaction.atomic
def confirm(message: Message) -> str:
    is_new = inbox.accept(message, subscription="confirm", connection=connection)
    return f"confirmed {Order.objects.get(id=message.subject).id}" if is_new else "a repeat"  # its work goes here


def relay() -> None:  # what runs beside the application: `millstream relay`
    where = ["--store", f"sqlite://{database}", "--transport", f"log://{log}", "--data", folder.name, "--port", "0"]
    command = [".venv/bin/millstream", "relay", *where, "--topic", "orders", "--partitions", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while connection.cursor().execute("SELECT 1 FROM millstream_outbox").fetchone():
            time.sleep(0.01)
        process.terminate()


async def forwarded() -> list[Message]:
    async with LogTransport(log, clock=SystemClock()) as reading:
        return [decode_message(record.value) for record in await reading.read("orders", 0, 0).next(100)]


with connection.schema_editor() as editor:
    editor.create_model(Order)
    for statement in tables("sqlite"):  # in a migration: migrations.RunSQL(tables("postgresql"))
        editor.execute(statement)
place("o1")
with suppress(IntegrityError):
    place("o1")  # its event goes with it
relay()
for message in asyncio.run(forwarded()):
    print(f"{message.type} {message.subject} of {message.source}: {confirm(message)}, once more: {confirm(message)}")
folder.cleanup()
