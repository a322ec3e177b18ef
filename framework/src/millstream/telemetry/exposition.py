"""The text that Prometheus reads, made from the numbers when somebody asks.

The client library is loaded at the first request: a process whose `/metrics` nobody reads never pays for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from ..ports.instrumentation import Labels
from .metrics import Histogram, Metrics
from .names import METRICS, Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

__all__ = ["Exposition"]


class Exposition:
    """Renders `Metrics`, and the memory, processor time and open files of the process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry: CollectorRegistry | None = None

    def render(self) -> tuple[bytes, str]:
        """The body and the content type of a reply to `GET /metrics`."""
        from prometheus_client import exposition

        if self._registry is None:
            self._registry = self._make_registry()
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Family]:
        """Called by the client library."""
        for metric in METRICS.values():
            family = self._family(metric)
            if family is not None:
                yield family

    def _make_registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry

    def _family(self, metric: Metric) -> Family | None:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        match metric.kind:
            case "counter":
                counters = self._metrics.counters.get(metric.name)
                if not counters:
                    return None
                counter = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in counters.items():
                    counter.add_metric(_values(labels), value)
                return counter
            case "gauge":
                gauges = self._metrics.read_gauges(metric.name)
                if not gauges:
                    return None
                gauge = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in gauges:
                    gauge.add_metric(_values(labels), value)
                return gauge
            case "histogram":
                histograms = self._metrics.histograms.get(metric.name)
                if not histograms:
                    return None
                family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, histogram in histograms.items():
                    family.add_metric(_values(labels), _cumulated(histogram), histogram.total)
                return family


def _values(labels: Labels) -> list[str]:
    # A lone surrogate in one label would make the whole page fail to encode.
    return [value.encode("utf-8", "backslashreplace").decode() for _, value in labels]


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.buckets), strict=True))
