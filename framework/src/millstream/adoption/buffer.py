"""Events that wait for the end of the transaction which publishes them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ..caller import Caller
from ..errors import MillstreamError
from ..message import Message
from .rows import Encoder, OutboxRow

__all__ = ["Buffer"]


class Buffer:
    """The events of one `outbox.transaction` block. They are written when the block ends, behind its last statement."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._rows: list[OutboxRow] = []
        self._ended = False

    def publish(self, event: object, *, cause: Message | Caller | None = None) -> str:
        """Publish an event with this transaction's commit; return its message id.

        Raises:
            Undecodable: it cannot be encoded. RecordRefused: it is larger than the log carries. Both name it.
            Misconfigured: it is no declared event.
        """
        if self._ended:
            raise MillstreamError("this transaction has ended: publish inside its block")
        row = self._encoder.row(event, cause)
        self._rows.append(row)
        return row.message_id

    @contextmanager
    def part(self) -> Generator[None]:
        """Forget what was published inside, if it raises."""
        mark = len(self._rows)
        try:
            yield
        except BaseException:
            del self._rows[mark:]
            raise

    def end(self) -> list[OutboxRow]:
        """What is to be written; nothing can be published any more."""
        self._ended = True
        return self._rows
