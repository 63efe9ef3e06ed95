"""Counters of the running process, for Prometheus. Each process counts for itself.

Labels are routes, methods, statuses and outcomes, which are few; never a tenant, a dataset or a key: anyone may read
the metrics, and each label value is a time series of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ledger import __version__
from ledger.api.lag import Lag

if TYPE_CHECKING:
    from ledger.alerting.courier import Courier
    from ledger.api.limits import Shares
    from ledger.report.pool import Pool
    from ledger.service.certificates import Certificates
    from ledger.service.writer import Writer

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# The creation time of each series would double their number, and Prometheus detects a restart by itself.
disable_created_metrics()  # type: ignore[no-untyped-call]
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


class Metrics:
    """The counters of one application, in a registry of its own, so that several can exist in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        Gauge("ledger_info", "Which version runs.", ["version"], registry=registry).labels(__version__).set(1)
        self._requests = Counter(
            "ledger_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "ledger_request_seconds",
            "From a request's head to the end of its answer.",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._decisions = Counter("ledger_decisions", "Decisions answered.", ["outcome"], registry=registry)
        self._failed = Counter(
            "ledger_failed_sign_ins", "Requests of callers that were not recognised.", ["reason"], registry=registry
        )
        self._limited = Counter("ledger_rate_limited", "Requests refused for a key's rate.", registry=registry)
        self._group_size = Histogram(
            "ledger_writer_group_size", "Commands decided in one transaction.", buckets=_SIZES, registry=registry
        )
        self._group_seconds = Histogram(
            "ledger_writer_group_seconds",
            "From a group's BEGIN to its answers, after the commit.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._certificate_seconds = Histogram(
            "ledger_certificate_seconds", "Computing a certificate.", buckets=_SECONDS, registry=registry
        )
        self._writer_waiting = Gauge("ledger_writer_waiting", "Commands that wait to be decided.", registry=registry)
        self._certificates_waiting = Gauge(
            "ledger_certificates_waiting", "Certificates that wait or are being computed.", registry=registry
        )
        self._heads = Counter(
            "ledger_heads",
            "Heads of journals that were published, that contradict a published one, or that could not be.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("published", "contradicted", "failed"):
            self._heads.labels(outcome)
        self._alerts = Counter("ledger_alerts", "Alerts raised.", ["kind"], registry=registry)
        self._deliveries = Counter(
            "ledger_alert_deliveries",
            "Attempts to deliver an alert, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._alerts_pending = Gauge(
            "ledger_alerts_pending", "Alerts that waited to be delivered when this process looked.", registry=registry
        )
        for outcome in ("delivered", "retried", "failed"):
            self._deliveries.labels(outcome)
        for outcome in ("approved", "refused", "replayed"):
            self._decisions.labels(outcome)
        for reason in ("missing", "malformed", "unknown", "limited"):
            self._failed.labels(reason)
        self._cut = Counter("ledger_connections_cut", "Connections that were cut.", ["reason"], registry=registry)
        self._connections = Gauge("ledger_connections", "Connections that are open.", registry=registry)
        self._serving = Gauge("ledger_requests_serving", "Requests of recognised callers.", registry=registry)
        self._held = Gauge("ledger_body_bytes_held", "Bytes of bodies that are held.", registry=registry)
        self._streams = Gauge("ledger_streams", "Reports and exports that are being sent.", registry=registry)
        self._makers = Gauge("ledger_report_processes", "Processes that make reports.", registry=registry)
        self._computing = Gauge("ledger_computing_processes", "Processes that compute certificates.", registry=registry)
        self.lag = Lag()
        Gauge(
            "ledger_loop_lag_seconds",
            "The longest time that the event loop was late since this was last read.",
            registry=registry,
        ).set_function(self.lag.take)

    def watch(self, writer: Writer, certificates: Certificates, courier: Courier, reports: Pool) -> None:
        """Read the length of the queues and the number of processes at every scrape."""
        self._computing.set_function(lambda: certificates.processes)
        self._makers.set_function(lambda: reports.processes)
        self._alerts_pending.set_function(lambda: courier.pending)
        self._writer_waiting.set_function(lambda: writer.waiting)
        self._certificates_waiting.set_function(lambda: certificates.waiting)

    def watch_room(self, requests: Shares, held: Shares, streams: Shares) -> None:
        """Read how much of the room for callers is taken at every scrape."""
        self._serving.set_function(lambda: requests.taken)
        self._held.set_function(lambda: held.taken)
        self._streams.set_function(lambda: streams.taken)

    def watch_connections(self, connections: Sized, reasons: Iterable[str]) -> None:
        """Read the number of connections at every scrape, and count those that are cut, by these reasons."""
        self._connections.set_function(lambda: len(connections))
        for reason in reasons:
            self._cut.labels(reason)

    def cut(self, reason: str) -> None:
        """Count a connection that was cut."""
        self._cut.labels(reason).inc()

    def request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        # To look a series up by its labels takes longer than to count in it; there are a few hundred.
        series = self._series.get((route, method, status))
        if series is None:
            series = self._requests.labels(route, method, str(status)), self._request_seconds.labels(route, method)
            self._series[route, method, status] = series
        counter, histogram = series
        counter.inc()
        histogram.observe(seconds)

    def decisions(self, outcomes: Iterable[str]) -> None:
        for outcome in outcomes:
            self._decisions.labels(outcome).inc()

    def failed_sign_in(self, reason: str) -> None:
        self._failed.labels(reason).inc()

    def rate_limited(self) -> None:
        self._limited.inc()

    def group(self, size: int, seconds: float) -> None:
        """Count a group that the writer answered. Called from the writer's threads."""
        self._group_size.observe(size)
        self._group_seconds.observe(seconds)

    def head(self, outcome: str) -> None:
        """Count the outcome of publishing a journal's head. Called from the publisher's thread."""
        self._heads.labels(outcome).inc()

    def certificate(self, seconds: float) -> None:
        """Count a computed certificate. Called from the threads that compute them."""
        self._certificate_seconds.observe(seconds)

    def alerts(self, kinds: Iterable[str]) -> None:
        """Count alerts that were raised. Called from the writer's threads."""
        for kind in kinds:
            self._alerts.labels(kind).inc()

    def delivery(self, outcome: str) -> None:
        """Count an attempt to deliver an alert. Called from the courier's thread."""
        self._deliveries.labels(outcome).inc()

    def exposition(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self.registry)
