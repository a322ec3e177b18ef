"""Celery on RabbitMQ quorum queues or Redis: acks late, publisher confirms, a worker that is lost gives its tasks back.

Its worker is Celery's own command (`worker_command` in the catalogue); this module is the application that it loads.
"""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# (the peer lives in .venv-peers, so its decorators are unknown)

from __future__ import annotations

import os

from celery import Celery
from celery.signals import worker_process_init

from ..workload import REDELIVERY_SECONDS, Task, body, engine, main, topic
from .blocking import Database, produce_dual

BROKER = os.environ["PEER_BROKER"]

app = Celery("effects")
if BROKER == "rabbitmq":
    app.conf.broker_url = engine("rabbitmq").replace("rabbitmq://", "amqp://").partition("?")[0]
    app.conf.task_default_queue_type = "quorum"
    app.conf.broker_transport_options = {"confirm_publish": True}
    app.conf.broker_native_delayed_delivery_queue_type = "quorum"
    app.conf.worker_detect_quorum_queues = True
else:
    app.conf.broker_url = engine("redis").partition("?")[0]
    app.conf.broker_transport_options = {"visibility_timeout": REDELIVERY_SECONDS}
app.conf.task_default_queue = topic()
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
app.conf.task_ignore_result = True
app.conf.broker_pool_limit = None

database = Database(connections=1)


@worker_process_init.connect
def connect(**_about: object) -> None:
    """In each process of the worker's pool."""
    database.open()


@app.task(name="effect")
def effect(event: dict) -> None:
    database.write_effect(event["key"], event["n"])


def _produce(task: Task) -> None:
    produce_dual(task, lambda n: effect.delay(body(n)))


if __name__ == "__main__":
    main({"produce": _produce})
