"""The use cases, made once when the application starts."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.access.authorization import SignIns
from ledger.access.keys import Keyring
from ledger.access.sessions import Sessions
from ledger.service.alerts import Alerts
from ledger.service.aside import Aside
from ledger.service.attestations import Attestations
from ledger.service.catalogue import Catalogue
from ledger.service.certificates import Certificates
from ledger.service.costing import Costing
from ledger.service.datasets import Datasets
from ledger.service.history import History
from ledger.service.journals import Journals
from ledger.service.keys import Keys
from ledger.service.overview import Overview
from ledger.service.past_runs import PastRunsService
from ledger.service.planned_runs import RunsPlanner
from ledger.service.planner import Planner
from ledger.service.proposals import Proposals
from ledger.service.runs import Runs
from ledger.service.tenants import Tenants
from ledger.service.writer import Writer
from ledger.signer.heads import Heads
from ledger.signer.keyfile import Signer
from ledger.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """One of each, for the life of the application."""

    store: Store
    writer: Writer
    keyring: Keyring
    sessions: Sessions
    sign_ins: SignIns
    catalogue: Catalogue
    certificates: Certificates
    aside: Aside
    datasets: Datasets
    history: History
    costing: Costing
    runs: Runs
    attestations: Attestations
    planner: Planner
    runs_planner: RunsPlanner
    past_runs: PastRunsService
    proposals: Proposals
    tenants: Tenants
    keys: Keys
    alerts: Alerts
    journals: Journals
    overview: Overview
    signer: Signer
    heads: Heads
    schema_revision: str
