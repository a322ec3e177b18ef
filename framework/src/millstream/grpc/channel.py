"""The side that calls: a `Channel` to services of other processes, as if they were in this one.

What a call passes on: its request, the caller as a proved passport, the deadline as `grpc-timeout`, the trace. What
comes back: the answer, or the same `RpcError` that the method raised.

When a service is away:

- a call that has not left waits for the connection: a worker that is started anew answers soon. With an idempotency key
  it waits until its deadline, without one `CONNECT_SECONDS` at most. Then it is `UNAVAILABLE`, and was certainly not done;
- a call that may have left is sent again only if it carries an idempotency key, because then doing it twice is doing
  it once; with growing random pauses until its deadline, within a budget that all calls of the channel share. Without a
  key its `UNAVAILABLE` goes to the caller, who alone knows whether to repeat it.

Several workers of a service take calls in turn; one that drains or does not answer is left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ..caller import Caller
from ..clock import Clock
from ..contracts.errors import rpc_error_of
from ..contracts.in_process import calling_line
from ..contracts.rich_status import DETAILS_TRAILER, decode_error
from ..delivery.driving import in_transaction
from ..errors import ForeignWait
from ..ids import Entropy
from ..ports.instrumentation import Instrumentation
from ..resilience.backoff import Retry
from ..resilience.deadline import DeadlineExceeded
from ..resilience.retry_budget import RetryBudget
from ..service.contract import RpcError, Status
from .driver import Metadata, aio, grpc, health_library, number_of, size_options
from .passport import PASSPORT, PROOF, Trust, write_passport
from .tls import Certificates

__all__ = ["GrpcChannel"]

CONNECT_SECONDS = 3.0
RETRY_SECONDS = 1.0
"""What the callers of the caller are told to wait where a service is away."""
AGAIN = Retry(attempts=100, first="50ms", cap="1s")
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})


class GrpcChannel:
    """Calls services by the addresses of their workers; connects when it is first needed.

    addresses: contract → `host:port` of each worker of the service that serves it. Contracts with the same addresses
    share a connection.
    """

    def __init__(
        self,
        addresses: Mapping[str, Sequence[str]],
        trust: Trust,
        clock: Clock,
        entropy: Entropy,
        instrumentation: Instrumentation,
        *,
        certificates: Certificates | None = None,
        body_bytes: int = 1_048_576,
    ) -> None:
        self._addresses = {contract: tuple(workers) for contract, workers in addresses.items()}
        self._trust = trust
        self._clock = clock
        self._entropy = entropy
        self._instrumentation = instrumentation
        self._certificates = certificates
        self._body_bytes = body_bytes
        self._budget = RetryBudget(clock)
        self._channels: dict[tuple[str, ...], Any] = {}
        self._methods: dict[str, Any] = {}

    async def call(self, service: str, method: str, request: bytes, caller: Caller, timeout: float) -> bytes:
        """As `Channel.call`.

        Raises:
            RpcError: what the method answered; `DEADLINE_EXCEEDED` after `timeout` or the caller's own deadline,
                whichever comes first; `UNAVAILABLE` when nobody serves it.
            ForeignWait: called inside a transaction.
        """
        if in_transaction():
            raise ForeignWait(calling_line(), f"a call of {service}/{method}")
        now_us = self._clock.now_us()
        deadline_us = now_us + round(timeout * 1e6)
        if caller.deadline_us is not None and caller.deadline_us < deadline_us:
            deadline_us = caller.deadline_us
        if deadline_us <= now_us:
            raise rpc_error_of(DeadlineExceeded("it was over when the call began"))
        attributes = {"contract": service, "method": method}
        with self._instrumentation.span("millstream.contract.call", caller.traceparent, **attributes) as traceparent:
            call = _Call(
                f"/{service}/{method}", request, write_passport(caller), traceparent,
                self._clock.monotonic() + (deadline_us - now_us) / 1e6, caller.idempotency_key is not None,
            )  # fmt: skip
            return await self._carry(service, call)

    async def serving(self, contract: str, timeout: float = 1.0) -> bool:
        """Whether a worker that serves this contract says that it does."""
        _, messages = health_library()
        ask = self._channel(contract).unary_unary("/grpc.health.v1.Health/Check")
        try:
            request = messages.HealthCheckRequest(service=contract)
            reply = await ask(request.SerializeToString(), timeout=timeout)
        except aio.AioRpcError:
            return False
        answer = messages.HealthCheckResponse.FromString(reply)
        return bool(answer.status == messages.HealthCheckResponse.SERVING)

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""
        channels, self._channels = self._channels, {}
        self._methods.clear()
        for channel in channels.values():
            await channel.close()

    async def _carry(self, service: str, call: _Call) -> bytes:
        """Bring a call to an answer, over as many attempts as may be made."""
        self._budget.earn()
        attempt = 0
        while True:
            await self._connected(service, call)
            try:
                return await self._send(service, call)
            except aio.AioRpcError as failure:
                error = _error_of(failure)
                details = _details(failure)
            attempt += 1
            # A service that answers says by itself what its callers may do. Only silence is tried again.
            silent = error.status == Status.UNAVAILABLE and not details
            if not silent:
                raise error
            away = RpcError(
                Status.UNAVAILABLE, f"{service} is away", problem="service-unavailable", retry_after=RETRY_SECONDS
            )
            if not call.repeatable:
                raise away from None
            pause = AGAIN.delay(attempt, self._entropy.random())
            if self._clock.monotonic() + pause >= call.until or not self._budget.spend():
                raise away from None
            await self._clock.sleep(pause)

    async def _connected(self, service: str, call: _Call) -> None:
        """Return once somebody is connected; what has not left is safe to hold back."""
        channel = self._channel(service)
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return
        left = max(0.0, call.until - self._clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(left if call.repeatable else min(CONNECT_SECONDS, left)):
                while state is not grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
                return
        raise RpcError(
            Status.UNAVAILABLE,
            f"{service} is away: nobody answers at {', '.join(self._addresses[service])}",
            problem="service-unavailable",
            retry_after=RETRY_SECONDS,
        )

    async def _send(self, service: str, call: _Call) -> bytes:
        method = self._methods.get(call.path)
        if method is None:
            method = self._methods[call.path] = self._channel(service).unary_unary(call.path)
        left = call.until - self._clock.monotonic()
        if left <= 0:
            raise rpc_error_of(DeadlineExceeded("nobody waits any more"))
        # Proved anew for each attempt: the moment is part of the proof.
        proof = self._trust.prove(call.path, call.passport, call.request, self._clock.now_us())
        metadata: Metadata = ((PASSPORT, call.passport),)
        if proof is not None:
            metadata = (*metadata, (PROOF, proof))
        if call.traceparent is not None:
            metadata = (*metadata, ("traceparent", call.traceparent))
        answer: bytes = await method(call.request, timeout=left, metadata=metadata)
        return answer

    def _channel(self, contract: str) -> Any:
        workers = self._addresses.get(contract)
        if not workers:
            raise RpcError(Status.UNAVAILABLE, f"nobody serves {contract}: no address is configured for its service")
        channel = self._channels.get(workers)
        if channel is None:
            channel = self._channels[workers] = self._open(workers)
        return channel

    def _open(self, workers: Sequence[str]) -> Any:
        target = f"ipv4:{','.join(workers)}" if all(_is_ipv4(w) for w in workers) else f"dns:///{workers[0]}"
        options = [
            *size_options(self._body_bytes),
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.use_local_subchannel_pool", 1),
            # A worker that was started anew is found in a moment, and one whose machine vanished is given up in 20 s.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if self._certificates is None:
            return aio.insecure_channel(target, options=options)
        return aio.secure_channel(target, self._certificates.for_client(), options=options)


class _Call(msgspec.Struct, frozen=True):
    """One call over all its attempts. `until` is a moment of the clock's monotonic time."""

    path: str
    request: bytes
    passport: bytes
    traceparent: str | None
    until: float
    repeatable: bool


def _details(failure: Any) -> bytes:
    for name, value in failure.trailing_metadata() or ():
        if name == DETAILS_TRAILER:
            return bytes(value)
    return b""


def _error_of(failure: Any) -> RpcError:
    """The error that the method raised, or what the transport says in its place."""
    status = number_of(failure.code())
    details = _details(failure)
    if not details and status == Status.DEADLINE_EXCEEDED:
        return rpc_error_of(DeadlineExceeded(""))
    return decode_error(status, failure.details() or "", details)


def _is_ipv4(address: str) -> bool:
    return address.rpartition(":")[0].replace(".", "").isdigit()
