"""For whom a call is made, and the proof that whoever says so may say it.

A service that calls another one forwards the caller that the edge has verified: subject, roles, tenant, idempotency key
and correlation id travel as one piece of metadata, the passport. Believing it from anybody would let everybody be
anybody, so a passport counts only with a proof:

- `MutualTls`: the connection's client certificate was issued by the authority that the services share, and names one
  of the allowed peers where those are configured. The connection also keeps others from reading along.
- `SharedKey`: on one machine without TLS. Processes that can read the same key file sign each call with it: the
  method, the passport, the request and the moment. It proves who speaks and does not hide what is said, which is why
  a server without TLS listens on loopback only.

A passport without its proof is refused, never ignored: nobody must come to believe that a forged one had worked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Protocol

import msgspec

from ..caller import Caller
from ..service.contract import RpcError, Status

__all__ = ["PASSPORT", "PROOF", "MutualTls", "SharedKey", "Trust", "read_passport", "unauthenticated", "write_passport"]

PASSPORT = "millstream-passport-bin"
PROOF = "millstream-proof-bin"
TOLERANCE_US = 60_000_000
"""How old a signature may be, and how far clocks may differ: within it the same request can be sent again."""
_MOMENT_BYTES = 8


class _Passport(msgspec.Struct, frozen=True, array_like=True):
    """What travels of a caller. Deadline and trace have metadata of their own, which every gRPC library knows."""

    subject: str
    roles: tuple[str, ...] = ()
    tenant: str | None = None
    idempotency_key: str | None = None
    correlation_id: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Passport).decode


def write_passport(caller: Caller) -> bytes:
    """What the metadata says of a caller."""
    return _encode(
        _Passport(caller.subject, caller.roles, caller.tenant, caller.idempotency_key, caller.correlation_id)
    )


def read_passport(passport: bytes, deadline_us: int | None, traceparent: str | None) -> Caller:
    """The caller of a passport that was proved.

    Raises:
        RpcError: `UNAUTHENTICATED`: it is none.
    """
    try:
        found = _decode(passport)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise unauthenticated("the passport cannot be read") from None
    return Caller(
        found.subject, found.roles, found.tenant, found.idempotency_key, deadline_us, traceparent, found.correlation_id
    )


class Trust(Protocol):
    """How services know each other."""

    def prove(self, path: str, passport: bytes, request: bytes, now_us: int) -> bytes | None:
        """What goes with a passport; None where the connection is the proof."""
        ...

    def check(
        self,
        path: str,
        passport: bytes,
        request: bytes,
        proof: bytes | None,
        peer: Mapping[str, Sequence[bytes]],
        now_us: int,
    ) -> None:
        """Return when the passport may be believed. `peer` is what the connection knows of the other side.

        Raises:
            RpcError: `UNAUTHENTICATED`.
        """
        ...  # fmt: skip


class SharedKey:
    """Proof by HMAC-SHA256 with a key that processes of one machine share."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def prove(self, path: str, passport: bytes, request: bytes, now_us: int) -> bytes | None:
        moment = now_us.to_bytes(_MOMENT_BYTES, "big")
        return moment + self._signature(path, passport, request, moment)

    def check(
        self, path: str, passport: bytes, request: bytes, proof: bytes | None, peer: Mapping[str, Sequence[bytes]],
        now_us: int,
    ) -> None:  # fmt: skip
        if proof is None:
            raise unauthenticated("a passport needs its proof: only services that share the key may speak for others")
        moment, signature = proof[:_MOMENT_BYTES], proof[_MOMENT_BYTES:]
        if not hmac.compare_digest(signature, self._signature(path, passport, request, moment)):
            raise unauthenticated("the proof of the passport is not valid: do both services read the same key?")
        if abs(now_us - int.from_bytes(moment, "big")) > TOLERANCE_US:
            raise unauthenticated("the proof of the passport is too old, or the clocks differ")

    def _signature(self, path: str, passport: bytes, request: bytes, moment: bytes) -> bytes:
        name = path.encode()
        # Lengths in front keep the parts apart: no byte can move from one into the next.
        parts = b"%d %d " % (len(name), len(passport)) + moment + name + passport + sha256(request).digest()
        return hmac.digest(self._key, parts, "sha256")


class MutualTls:
    """Proof by the client certificate of the connection, which the TLS handshake has verified.

    peers: names (DNS or URI of the certificate's alternative names, or its common name) that may speak for others;
    empty: whoever has a certificate of the authority.
    """

    def __init__(self, peers: Sequence[str] = ()) -> None:
        self._peers = frozenset(peer.encode() for peer in peers)

    def prove(self, path: str, passport: bytes, request: bytes, now_us: int) -> bytes | None:
        return None

    def check(
        self, path: str, passport: bytes, request: bytes, proof: bytes | None, peer: Mapping[str, Sequence[bytes]],
        now_us: int,
    ) -> None:  # fmt: skip
        if not peer.get("x509_pem_cert"):
            raise unauthenticated("a passport needs a client certificate: only services may speak for others")
        names = {*peer.get("x509_subject_alternative_name", ()), *peer.get("x509_common_name", ())}
        if self._peers and not names & self._peers:
            raise unauthenticated("the client certificate is none of those that may speak for others (grpc.peers)")


def unauthenticated(message: str) -> RpcError:
    """The refusal of a caller who has not proved who they are."""
    return RpcError(Status.UNAUTHENTICATED, message, problem="unauthenticated")
