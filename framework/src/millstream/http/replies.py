"""From what a handler returned to the bytes that leave, and back from a stored reply (the same bytes again)."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from starlette.responses import Response

from ..delivery.idempotency import StoredReply
from ..service.route import Reply
from .bodies import encode_body
from .problems import PROBLEM_JSON, Problem

__all__ = ["Answer", "answer_of", "is_final", "of_problem", "of_stored", "to_stored"]

_JSON: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
_PROBLEM: tuple[tuple[bytes, bytes], ...] = ((b"content-type", PROBLEM_JSON),)
_NEVER_STORED = frozenset({401, 408, 425, 429})


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A complete reply. `response` is set instead when the handler made a Starlette response of its own."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    response: Response | None = None


def is_final(status: int) -> bool:
    """Whether a repeat of the same request would get this again: what is stored under an idempotency key."""
    return status < 500 and status not in _NEVER_STORED


def answer_of(returned: Any) -> Answer:
    """The reply that a handler means: a body alone is a 200, None a 204.

    Bytes and text leave as they are, under the content type that the handler gave, everything else as JSON.

    Raises:
        TypeError: it returned something that no reply can carry.
    """
    if isinstance(returned, Reply):
        reply = cast(Reply[Any], returned)
        return _with_body(reply.status, reply.body, reply.headers)
    if isinstance(returned, Response):
        return Answer(returned.status_code, (), b"", returned)
    if returned is None:
        return Answer(204, (), b"")
    return Answer(200, _JSON, encode_body(returned))


def of_problem(problem: Problem) -> Answer:
    """The reply of a refusal."""
    extra = tuple((k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in problem.headers.items())
    return Answer(problem.status, _PROBLEM + extra, problem.body())


def to_stored(answer: Answer) -> StoredReply:
    """The reply as it is kept with the work."""
    pairs = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in answer.headers]
    return StoredReply(answer.status, answer.body, msgspec.json.encode(pairs).decode())


def of_stored(stored: StoredReply, *, replayed: bool) -> Answer:
    """The reply that was kept."""
    headers = tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in _pairs.decode(stored.headers))
    if replayed:
        headers += ((b"idempotent-replayed", b"true"),)
    return Answer(stored.status, headers, stored.body)


_pairs = msgspec.json.Decoder(list[tuple[str, str]])


def _with_body(status: int, body: Any, headers: dict[str, str]) -> Answer:
    lowered = {name.lower(): value for name, value in headers.items()}
    for name, value in lowered.items():
        if not value.isprintable() or not name.isprintable():
            raise ValueError(f"header {name!r} of a reply has a value that no header can carry")
    extra = tuple((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in lowered.items())
    if body is None:
        return Answer(status, extra, b"")
    if isinstance(body, (bytes, str)) and "content-type" in lowered:
        return Answer(status, extra, body if isinstance(body, bytes) else body.encode())
    return Answer(status, extra if "content-type" in lowered else _JSON + extra, encode_body(body))
