"""Which traces are recorded, decided before anything is made for them.

Source: OpenTelemetry specification, "Sampling" (`ParentBased`, `TraceIdRatioBased`). The ratio is taken of the trace id,
so that every process that sees a trace decides alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Misconfigured
from .trace_context import is_sampled, trace_id_of

__all__ = ["Sampler", "sampler_from"]

_WHOLE = float(1 << 64)


@dataclass(frozen=True, slots=True)
class Sampler:
    """`ratio` of the traces that begin here; where `parent_based`, a caller's decision is followed."""

    ratio: float = 1.0
    parent_based: bool = True

    def begins(self, trace_id: str) -> bool:
        """Whether to record a trace that begins here."""
        if self.ratio >= 1.0:
            return True
        # The lowest 64 bits: the part that the standard asks to be random.
        return self.ratio > 0.0 and int(trace_id[16:], 16) < self.ratio * _WHOLE

    def follows(self, traceparent: str) -> bool:
        """Whether to record a span under this parent."""
        return is_sampled(traceparent) if self.parent_based else self.begins(trace_id_of(traceparent))


def sampler_from(name: str | None, argument: str | None) -> Sampler:
    """The sampler that `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` name.

    Raises:
        Misconfigured: no such sampler, or the argument is no ratio between 0 and 1.
    """
    name = name or "parentbased_always_on"
    parent_based = name.startswith("parentbased_")
    match name.removeprefix("parentbased_"):
        case "always_on":
            return Sampler(1.0, parent_based)
        case "always_off":
            return Sampler(0.0, parent_based)
        case "traceidratio":
            return Sampler(_ratio(argument), parent_based)
        case _:
            raise Misconfigured(
                f"OTEL_TRACES_SAMPLER={name!r}: use always_on, always_off or traceidratio, each also as parentbased_…"
            )


def _ratio(argument: str | None) -> float:
    try:
        ratio = 1.0 if not argument else float(argument)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise Misconfigured(f"OTEL_TRACES_SAMPLER_ARG={argument!r}: write a ratio between 0 and 1")
    return ratio
