"""Letters over real SMTP: one Message-ID for every try, refusals told from delays, and a TLS upgrade that can be insisted on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from millstream import Permanent, Transient
from millstream.errors import Misconfigured
from millstream.testing.harness import Harness
from millstream_services.contracts.order_events import OrderCancelled, OrderConfirmed
from millstream_services.contracts.payment_events import PaymentRefunded
from millstream_services.notifications.domain import Letter, letter_about
from millstream_services.notifications.mailer import SmtpMailer, message_id
from millstream_services.notifications.service import notifications

LETTER = Letter("order.confirmed", "", "2375", "Your order", "We have it.")


class Inbox:
    """A mail server in this process. `say` is its answer to the next letters."""

    def __init__(self) -> None:
        self.letters: list[Message] = []
        self.say: list[str] = []
        self.logins: list[bytes] = []

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        answer = self.say.pop(0) if self.say else "250 taken"
        if answer.startswith("2"):
            assert isinstance(envelope.content, bytes)
            self.letters.append(message_from_bytes(envelope.content))
        return answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins += [data.login, data.password]
        return AuthResult(success=True)


@pytest.fixture
async def inbox() -> AsyncIterator[tuple[Inbox, str]]:
    box = Inbox()

    def make() -> SMTP:
        return SMTP(box, authenticator=box.authenticate, auth_require_tls=False, hostname="localhost")

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield box, f"127.0.0.1:{port}"


async def test_a_letter_arrives_with_its_message_id_and_a_second_one_uses_the_connection(
    inbox: tuple[Inbox, str],
) -> None:
    box, address = inbox
    mailer = SmtpMailer(f"smtp://us%40er:pass@{address}", "shop@example.org", "example.org")
    await mailer.send(LETTER, message_id("call-1", "shop.example"))
    await mailer.send(LETTER, message_id("call-1", "shop.example"))
    await mailer.aclose()

    first, second = box.letters
    assert (first["To"], first["From"], first["Subject"]) == ("2375@example.org", "shop@example.org", "Your order")
    assert first["Message-ID"] == second["Message-ID"] == message_id("call-1", "shop.example")
    assert first.get_payload(decode=True) == b"We have it.\r\n"
    assert box.logins == [b"us@er", b"pass"]


async def test_many_letters_at_once_share_few_connections(inbox: tuple[Inbox, str]) -> None:
    box, address = inbox
    mailer = SmtpMailer(f"smtp://{address}", "shop@example.org", "example.org")
    await asyncio.gather(*(mailer.send(LETTER, message_id(str(n), "x")) for n in range(40)))
    await mailer.aclose()
    assert len({letter["Message-ID"] for letter in box.letters}) == 40


async def test_a_refusal_for_good_is_permanent_and_one_for_now_transient(inbox: tuple[Inbox, str]) -> None:
    box, address = inbox
    mailer = SmtpMailer(f"smtp://{address}", "shop@example.org", "example.org")
    box.say = ["554 spam", "451 later"]
    with pytest.raises(Permanent, match="554 spam"):
        await mailer.send(LETTER, "<1@x>")
    with pytest.raises(Transient, match="451 later"):
        await mailer.send(LETTER, "<1@x>")
    await mailer.send(LETTER, "<1@x>")
    await mailer.aclose()
    assert len(box.letters) == 1


async def test_a_server_that_is_away_is_transient() -> None:
    mailer = SmtpMailer("smtp://127.0.0.1:1", "shop@example.org", "example.org")
    with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
        await mailer.send(LETTER, "<1@x>")
    await mailer.aclose()


async def test_required_tls_is_not_given_up_where_the_server_has_none(inbox: tuple[Inbox, str]) -> None:
    box, address = inbox
    mailer = SmtpMailer(f"smtp://{address}?starttls=required", "shop@example.org", "example.org")
    with pytest.raises(Transient):
        await mailer.send(LETTER, "<1@x>")
    await mailer.aclose()
    assert box.letters == []


async def test_a_customer_with_a_line_break_cannot_add_a_header(inbox: tuple[Inbox, str]) -> None:
    box, address = inbox
    mailer = SmtpMailer(f"smtp://{address}", "shop@example.org", "example.org")
    with pytest.raises(Permanent, match="cannot be addressed"):
        await mailer.send(Letter("k", "", "a@b.c\r\nBcc: d@e.f", "s", "t"), "<1@x>")
    await mailer.aclose()
    assert box.letters == []


@pytest.mark.parametrize("url", ["localhost:25", "http://localhost", "smtp://"])
def test_an_address_that_is_none_is_refused_at_start(url: str) -> None:
    with pytest.raises(Misconfigured, match="smtp"):
        SmtpMailer(url, "a@b.c", "b.c")


async def test_a_mail_server_that_comes_back_gets_each_letter_once(inbox: tuple[Inbox, str]) -> None:
    box, address = inbox
    box.say = ["451 later", "451 later"]
    async with Harness(notifications, settings={"notifications": {"smtp": f"smtp://{address}"}}) as ms:
        fact = OrderConfirmed("o1", "ann", "2375", "USD", 350, "p1")
        await ms.publish(fact, fact)
        async with asyncio.timeout(20):
            while await ms.rows(notifications, "SELECT told FROM notifications") in ([], [(None,)]):
                await asyncio.sleep(0.01)
                await ms.clock.advance(0.5)
        await ms.quiet()
        assert await ms.rows(notifications, "SELECT order_id, kind, owner FROM notifications") == [
            ("o1", "order.confirmed", "ann")
        ]
        assert await ms.dead_letters(notifications) == []
    assert len(box.letters) == 1


async def test_a_repeated_fact_is_recorded_once() -> None:
    async with Harness(notifications) as ms:
        for _ in range(3):
            await ms.publish(OrderCancelled("o1", "ann", "2375"))
        await ms.quiet()
        assert await ms.rows(notifications, "SELECT COUNT(*) FROM notifications") == [(1,)]


def test_amounts_in_letters_follow_their_currency() -> None:
    confirmed = letter_about(OrderConfirmed("o", "ann", "c", "JPY", 350, "p"))
    refunded = letter_about(PaymentRefunded("o", "p", "r", "ann", 1_005, 1_005, "KWD"))
    assert confirmed is not None
    assert refunded is not None
    assert "350 JPY" in confirmed.text
    assert "1.005 KWD" in refunded.subject
