"""What a call works with, made once when the application starts."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from ledger.alerting.courier import Courier
from ledger.api.metrics import Metrics
from ledger.recovery.keeper import Keeper
from ledger.recovery.known import Known
from ledger.report.pool import Pool
from ledger.service.use_cases import UseCases


@dataclass(frozen=True, slots=True, kw_only=True)
class Services(UseCases):
    """The use cases, and what runs next to them: the courier, and the processes that make reports."""

    courier: Courier
    reports: Pool
    known: Known
    keeper: Keeper


def services(request: Request) -> Services:
    """Return the services of the application that got this request."""
    started: Services = request.app.state.services
    return started


@dataclass(frozen=True, slots=True)
class Served:
    """What answers a request: the use cases, and the counters of what they did."""

    services: Services
    metrics: Metrics


def served(request: Request) -> Served:
    """Return what answers this request."""
    return Served(services(request), request.app.state.metrics)
