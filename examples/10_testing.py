"""Testing a service: the real kernel on real SQLite, a clock in hand, no sleep and no mock of the framework.

Run it: .venv/bin/python -m pytest examples/10_testing.py
"""

import os
import sys
from collections.abc import AsyncIterator

import msgspec
from millstream import Event, Refused, Retry, Service, Tx
from millstream.http import Accepted
from millstream.testing.harness import Harness


class Guest(msgspec.Struct, frozen=True):
    mail: str


class Invited(Event, topic="invitations", key="mail"):
    mail: str


class MailServer:
    """The outside world: the one thing that a test replaces."""

    def __init__(self, away: bool = False) -> None:
        self.sent: list[str] = []
        self.away = away

    async def send(self, mail: str) -> None:
        if self.away:
            raise ConnectionError("the mail server is away")
        self.sent.append(mail)


def party(server: MailServer) -> Service:
    service = Service("party", migrations="sql/invitations")
    service.emits(Invited)

    @service.resource(MailServer)
    async def open_mail_server() -> AsyncIterator[MailServer]:
        yield server

    @service.post("/guests", idempotent=True)
    async def invite(body: Guest, tx: Tx) -> Accepted[Guest]:
        tx.expect("INSERT INTO guests VALUES (?) ON CONFLICT DO NOTHING", body.mail, otherwise=Refused("invited twice"))
        tx.publish(Invited(body.mail))
        return Accepted(body)

    @service.effect(Invited, name="send-invitation", retry=Retry(attempts=5, first="1m", cap="1h", jitter=False))
    async def send(event: Invited, server: MailServer) -> None:
        await server.send(event.mail)

    return service


# `millstream` is the fixture of the pytest plugin that comes with the package: it makes harnesses.
async def test_a_guest_is_invited_once(millstream: type[Harness]) -> None:
    server = MailServer()
    async with millstream(party(server)) as ms:
        await ms.post("/guests", {"mail": "ann@example.org"}, key="k1")
        assert (await ms.call("POST", "/guests", {"mail": "ann@example.org"}, key="k2")).status == 409
        await ms.quiet()
        assert server.sent == ["ann@example.org"]


async def test_an_outage_of_the_mail_server_heals_by_itself(millstream: type[Harness]) -> None:
    server = MailServer(away=True)
    async with millstream(party(server)) as ms:
        await ms.post("/guests", {"mail": "bob@example.org"}, key="k1")
        await ms.quiet()
        await ms.advance("1m")
        server.away = False
        await ms.advance("2m")  # takes milliseconds
        assert server.sent == ["bob@example.org"]


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-qq", "-rp", __file__])
