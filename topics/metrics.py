"""Metrics of one process: `firecell_*` in base units, one registry, one /metrics each (trap 22).

Requests are counted by plain integer adds on the event loop and collected at scrape; a cell's
numbers are read from its `stats()` at scrape. Labels are cell, role, route, status class and
result only: never a user. `render` may run in another thread beside the adds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from engine.limits import HTTP_BUCKETS_S
from topics.histogram import Histogram, at_most

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Stats = Callable[[], Mapping[str, float]]


class RouteCounts:
    """One route's numbers; `add` is on the hot path."""

    __slots__ = ("buckets", "classes", "seconds")

    def __init__(self) -> None:
        self.classes = [0] * 6  # by status // 100
        self.buckets = [0] * (len(HTTP_BUCKETS_S) + 1)  # not cumulative; the last is +Inf
        self.seconds = 0.0

    def add(self, status: int, seconds: float) -> None:
        """One request answered with `status` after `seconds`."""
        self.classes[status // 100] += 1
        self.buckets[bisect_left(HTTP_BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class HttpMetrics(Collector):
    """What one process counts. `stats`: more numbers, name -> value; names ending in `_total` are
    counters, all others gauges. `latency`: publish to inbox, in ms; None before there is any."""

    def __init__(
        self,
        role: str,
        cell: str = "",
        version: str = "",
        stats: Stats | None = None,
        latency: Callable[[], Histogram | None] = lambda: None,
    ) -> None:
        self.labels = {"role": role, "cell": cell}
        self.published = {"accepted": 0, "refused": 0}
        self._version = version
        self._stats = stats
        self._latency = latency
        self._routes: dict[str, RouteCounts] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(namespace="firecell", registry=self._registry)

    def route(self, name: str) -> RouteCounts:
        """The numbers of the route called `name`."""
        return self._routes.setdefault(name, RouteCounts())

    def render(self) -> bytes:
        """Everything in the text exposition format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        names, values = list(self.labels), list(self.labels.values())
        info = GaugeMetricFamily(
            "firecell_build_info", "Version of this process.", labels=[*names, "version"]
        )
        info.add_metric([*values, self._version], 1)
        yield info
        yield from self._requests(names, values)
        if self.labels["role"] == "gateway":
            yield self._publishing(names, values)
        if self._stats is not None:
            for name, value in sorted(self._stats().items()):
                yield _family(name, value, names, values)
        latency = self._latency()
        if latency is not None:
            yield _publish_to_inbox(latency, names, values)

    def _requests(self, names: list[str], values: list[str]) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "firecell_http_requests",
            "Requests by route and status class.",
            labels=[*names, "route", "status"],
        )
        seconds = HistogramMetricFamily(
            "firecell_http_request_seconds",
            "Time from the request's headers to the end of its answer.",
            labels=[*names, "route"],
        )
        for route, counts in sorted(self._routes.items()):
            for index, count in enumerate(counts.classes):
                if count:
                    requests.add_metric([*values, route, f"{index}xx"], count)
            seconds.add_metric([*values, route], _cumulative(counts.buckets), counts.seconds)
        yield requests
        yield seconds

    def _publishing(self, names: list[str], values: list[str]) -> Metric:
        events = CounterMetricFamily(
            "firecell_publish_events",
            "Events that publishers sent, by result.",
            labels=[*names, "result"],
        )
        for result, count in self.published.items():
            events.add_metric([*values, result], count)
        return events


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    rows: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, HTTP_BUCKETS_S), "+Inf"], buckets, strict=True):
        total += count
        rows.append((bound, total))
    return rows


def _publish_to_inbox(latency: Histogram, names: list[str], values: list[str]) -> Metric:
    seconds = HistogramMetricFamily(
        "firecell_publish_to_inbox_seconds",
        "From an event's append to its batch being durable in this cell.",
        labels=names,
    )
    counts = latency.snapshot()
    rows = [(str(bound), float(at_most(counts, bound * 1_000))) for bound in HTTP_BUCKETS_S]
    seconds.add_metric(values, [*rows, ("+Inf", float(sum(counts)))], latency.total / 1_000)
    return seconds


def _family(name: str, value: float, names: list[str], values: list[str]) -> Metric:
    full = name if name.startswith("firecell_") else f"firecell_{name}"
    about = f"{name.removesuffix('_total').replace('_', ' ')}, read at the scrape."
    family: CounterMetricFamily | GaugeMetricFamily
    if name.endswith("_total"):
        family = CounterMetricFamily(full.removesuffix("_total"), about, labels=names)
    else:
        family = GaugeMetricFamily(full, about, labels=names)
    family.add_metric(values, value)
    return family
