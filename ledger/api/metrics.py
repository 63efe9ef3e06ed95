"""What is counted while the process runs, for Prometheus. Each process counts for itself.

Labels are routes, methods, statuses and outcomes, of which there are few: never a tenant, a dataset or a key, both
because anyone may read this and because each would be a time series of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
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

if TYPE_CHECKING:
    from ledger.alerting.courier import Courier
    from ledger.report.pool import Pool
    from ledger.service.certificates import Certificates
    from ledger.service.writer import Writer

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# When each series began would be as many series again, and Prometheus sees by itself when one starts anew.
disable_created_metrics()  # type: ignore[no-untyped-call]
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


class Metrics:
    """The counters of one application, in a registry of its own, so that several can live in a process."""

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
            "Tries to deliver an alert, by what came of them.",
            ["outcome"],
            registry=registry,
        )
        self._alerts_pending = Gauge(
            "ledger_alerts_pending", "Alerts that waited to be delivered when this process looked.", registry=registry
        )
        self._report_processes = Gauge(
            "ledger_report_processes", "Processes that make reports, or wait to.", registry=registry
        )
        for outcome in ("delivered", "retried", "failed"):
            self._deliveries.labels(outcome)
        for outcome in ("approved", "refused", "replayed"):
            self._decisions.labels(outcome)
        for reason in ("missing", "malformed", "unknown", "limited"):
            self._failed.labels(reason)

    def watch(self, writer: Writer, certificates: Certificates, courier: Courier, reports: Pool) -> None:
        """Reads how many wait, whenever it is asked for."""
        self._alerts_pending.set_function(lambda: courier.pending)
        self._report_processes.set_function(lambda: reports.processes)
        self._writer_waiting.set_function(lambda: writer.waiting)
        self._certificates_waiting.set_function(lambda: certificates.waiting)

    def request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(seconds)

    def decisions(self, outcomes: Iterable[str]) -> None:
        for outcome in outcomes:
            self._decisions.labels(outcome).inc()

    def failed_sign_in(self, reason: str) -> None:
        self._failed.labels(reason).inc()

    def rate_limited(self) -> None:
        self._limited.inc()

    def group(self, size: int, seconds: float) -> None:
        """The writer answered a group. Called from its threads."""
        self._group_size.observe(size)
        self._group_seconds.observe(seconds)

    def head(self, outcome: str) -> None:
        """What became of a journal's head that was to be published. Called from the thread that does."""
        self._heads.labels(outcome).inc()

    def certificate(self, seconds: float) -> None:
        """A certificate was computed. Called from the threads that do."""
        self._certificate_seconds.observe(seconds)

    def alerts(self, kinds: Iterable[str]) -> None:
        """Alerts were raised. Called from the writer's threads."""
        for kind in kinds:
            self._alerts.labels(kind).inc()

    def delivery(self, outcome: str) -> None:
        """What came of a try to deliver an alert. Called from the courier's thread."""
        self._deliveries.labels(outcome).inc()

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
