"""What a call works with, made once when the application starts."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from ledger.catalogue import Catalogue
from ledger.certificates import Certificates
from ledger.courier import Courier
from ledger.heads import Heads
from ledger.keys import Keyring
from ledger.planner import Planner
from ledger.runs import Runs
from ledger.signing import Signer
from ledger.store import Store
from ledger.writer import Writer


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
