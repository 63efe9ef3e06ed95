"""What a call works with, made once when the application starts."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from ledger.alerting.courier import Courier
from ledger.service.use_cases import UseCases


@dataclass(frozen=True, slots=True, kw_only=True)
class Services(UseCases):
    """The use cases, and the courier that runs beside them."""

    courier: Courier


def services(request: Request) -> Services:
    """The services of the application that got this request."""
    started: Services = request.app.state.services
    return started
