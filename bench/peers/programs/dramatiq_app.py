"""Dramatiq on RabbitMQ or Redis: publisher confirms, acknowledged after the actor. Its worker is Dramatiq's own command."""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# (the peer lives in .venv-peers, so its decorators are unknown)

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware

from ..workload import REDELIVERY_SECONDS, Task, body, engine, main, topic
from .blocking import Database, produce_dual

database = Database()


class Connected(Middleware):
    """In the worker's process, before its threads."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        assert broker is worker.broker
        database.open()


if os.environ["PEER_BROKER"] == "rabbitmq":
    url = engine("rabbitmq").replace("rabbitmq://", "amqp://").partition("?")[0]
    dramatiq.set_broker(RabbitmqBroker(url=url, confirm_delivery=True))
else:
    url, silent_ms = engine("redis").partition("?")[0], REDELIVERY_SECONDS * 1_000
    dramatiq.set_broker(RedisBroker(url=url, namespace=topic(), heartbeat_timeout=silent_ms))
dramatiq.get_broker().add_middleware(Connected())


@dramatiq.actor(queue_name=topic())
def effect(event: dict) -> None:
    database.write_effect(event["key"], event["n"])


def _produce(task: Task) -> None:
    produce_dual(task, lambda n: effect.send(body(n)))


if __name__ == "__main__":
    main({"produce": _produce})
