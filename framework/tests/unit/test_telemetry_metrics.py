"""Numbers go in as plain additions and come out as text that Prometheus parses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.errors import Misconfigured
from millstream.telemetry.exposition import Exposition
from millstream.telemetry.metrics import Metrics
from millstream.telemetry.names import METRICS
from prometheus_client.parser import text_string_to_metric_families

ORDERS = (("service", "orders"), ("subscription", "confirm-order"))
HANDLED = "millstream_messages_handled_total"
LAG = "millstream_lag_messages"
SECONDS = "millstream_handler_seconds"
LOST = "millstream_telemetry_lost_total"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """(sample name, label values in order of their names) → value, of our own metrics."""
    body, content_type = Exposition(metrics).render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if family.name.startswith("millstream")
    }


def test_every_declared_metric_comes_out_in_text_that_prometheus_parses() -> None:
    metrics = Metrics(strict=True)
    for metric in METRICS.values():
        labels = tuple((name, f'a "quoted"\\ value\nof {name} ü') for name in metric.labels)
        match metric.kind:
            case "counter":
                metrics.count(metric.name, labels, 3)
            case "gauge":
                metrics.gauge(metric.name, labels, lambda: 3)
            case "histogram":
                metrics.observe(metric.name, labels, metric.bounds[0], 3)
    families = {f.name: f for f in text_string_to_metric_families(Exposition(metrics).render()[0].decode())}
    for metric in METRICS.values():
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        assert family.documentation == metric.meaning
        assert {label for sample in family.samples for label in sample.labels} - {"le"} == set(metric.labels)
        value = next(s for s in family.samples if not s.name.endswith(("_sum", "_created")))
        assert value.value == 3
        assert all(value.labels[name] == f'a "quoted"\\ value\nof {name} ü' for name in metric.labels)


def test_counts_of_batches_add_up() -> None:
    metrics = Metrics(strict=True)
    metrics.count(HANDLED, ORDERS, 0)
    assert samples(metrics)[HANDLED, ("orders", "confirm-order")] == 0
    metrics.count(HANDLED, ORDERS, 500)
    metrics.count(HANDLED, ORDERS)
    assert samples(metrics)[HANDLED, ("orders", "confirm-order")] == 501


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 500)), min_size=1, max_size=50))
def test_a_histogram_counts_each_observation_in_every_bucket_above_it(observed: list[tuple[float, int]]) -> None:
    metrics = Metrics(strict=True)
    for value, times in observed:
        metrics.observe(SECONDS, ORDERS, value, times)
    found = samples(metrics)
    total = sum(times for _, times in observed)
    assert found[f"{SECONDS}_count", ("orders", "confirm-order")] == total
    assert found[f"{SECONDS}_sum", ("orders", "confirm-order")] == pytest.approx(sum(v * n for v, n in observed))
    for bound in METRICS[SECONDS].bounds:
        below = sum(times for value, times in observed if value <= bound)
        assert found[f"{SECONDS}_bucket", (repr(bound), "orders", "confirm-order")] == below
    assert found[f"{SECONDS}_bucket", ("+Inf", "orders", "confirm-order")] == total


def test_a_gauge_is_read_when_a_collector_asks_and_a_later_one_replaces_it() -> None:
    metrics = Metrics(strict=True)
    lag = [7]
    metrics.gauge(LAG, ORDERS, lambda: lag[0])
    lag[0] = 9
    assert samples(metrics)[LAG, ("orders", "confirm-order")] == 9
    metrics.gauge(LAG, ORDERS, lambda: 1)
    assert samples(metrics)[LAG, ("orders", "confirm-order")] == 1


def test_a_gauge_that_fails_is_left_out_counted_and_reported_once() -> None:
    reports: list[tuple[str, str]] = []
    metrics = Metrics(strict=True, report=lambda what, metric: reports.append((what, metric)))
    metrics.gauge(LAG, ORDERS, lambda: 1 / 0)
    metrics.gauge(LAG, (("service", "carts"), ("subscription", "s")), lambda: 4)
    samples(metrics)
    found = samples(metrics)
    assert (LAG, ("orders", "confirm-order")) not in found
    assert found[LAG, ("carts", "s")] == 4
    assert found[LOST, ("gauge",)] == 2
    assert reports == [("gauge_failed", LAG)]


def subscription(number: int) -> tuple[tuple[str, str], ...]:
    return (("service", "orders"), ("subscription", f"s{number}"))


def test_label_sets_beyond_the_bound_are_folded_into_other_with_one_report() -> None:
    reports: list[tuple[str, str]] = []
    metrics = Metrics(strict=True, limit=2, report=lambda what, metric: reports.append((what, metric)))
    for _ in range(2):
        for number in range(5):
            metrics.count(HANDLED, subscription(number), 10)
            metrics.observe(SECONDS, subscription(number), 1.0)
            metrics.gauge(LAG, subscription(number), lambda: 1)
    found = samples(metrics)
    assert found[HANDLED, ("orders", "s1")] == 20
    assert found[HANDLED, ("other", "other")] == 60
    assert found[f"{SECONDS}_count", ("other", "other")] == 6
    assert (LAG, ("orders", "s1")) in found
    assert (LAG, ("orders", "s2")) not in found
    assert found[LOST, ("label_set",)] == 18
    assert sorted(reports) == sorted(("too_many_label_sets", name) for name in (HANDLED, SECONDS, LAG))
    assert len(metrics.counters[HANDLED]) == 3


@given(st.lists(st.tuples(st.text(), st.text())))
def test_no_label_value_spoils_the_page(values: list[tuple[str, str]]) -> None:
    metrics = Metrics(strict=True)
    for service, name in values:
        metrics.count(HANDLED, (("service", service), ("subscription", name)))
    Exposition(metrics).render()[0].decode()


@pytest.mark.parametrize(
    ("use", "complaint"),
    [
        (lambda m: m.count("millstream_nothing_total", ()), "is no metric"),
        (lambda m: m.count(SECONDS, ORDERS), "is a histogram, not a counter"),
        (lambda m: m.count(HANDLED, ORDERS[:1]), "takes the labels"),
        (lambda m: m.count(HANDLED, ORDERS[::-1]), "in this order"),
        (lambda m: m.observe(HANDLED, ORDERS, 1.0), "is a counter"),
        (lambda m: m.gauge(HANDLED, ORDERS, lambda: 1), "is a counter"),
    ],
)
def test_a_wrong_name_kind_or_label_raises_where_strict_and_else_is_reported_once(use, complaint: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(complaint)):
        use(Metrics(strict=True))
    reports: list[tuple[str, str]] = []
    lenient = Metrics(report=lambda what, metric: reports.append((what, metric)))
    use(lenient)
    use(lenient)
    assert [what for what, _ in reports] == ["undeclared"]
    assert samples(lenient) == {}


def test_the_page_tells_the_memory_of_the_process() -> None:
    assert b"process_resident_memory_bytes" in Exposition(Metrics()).render()[0]
