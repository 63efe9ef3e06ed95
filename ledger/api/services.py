"""What a call works with, made once when the application starts."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from ledger.access.keys import Keyring
from ledger.alerting.courier import Courier
from ledger.service.catalogue import Catalogue
from ledger.service.certificates import Certificates
from ledger.service.planner import Planner
from ledger.service.runs import Runs
from ledger.service.writer import Writer
from ledger.signer.heads import Heads
from ledger.signer.keyfile import Signer
from ledger.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """One of each, for the life of the application."""

    store: Store
    writer: Writer
    keyring: Keyring
    catalogue: Catalogue
    certificates: Certificates
    runs: Runs
    planner: Planner
    signer: Signer
    heads: Heads
    courier: Courier
    schema_revision: str


def services(request: Request) -> Services:
    """The services of the application that got this request."""
    found: Services = request.app.state.services
    return found
