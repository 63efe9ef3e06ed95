"""Build what the application works with: the store, the signers, the use cases, and the background threads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from ledger.access.authorization import SignIns
from ledger.access.keys import Keyring
from ledger.access.oidc import Issuers
from ledger.access.sessions import Sessions
from ledger.alerting.courier import Courier, Hosts
from ledger.api import memory
from ledger.api.metrics import Metrics
from ledger.api.services import Services
from ledger.core import alerts as raising
from ledger.core.alerting import Alert, AlertKind
from ledger.core.datasets import Parent
from ledger.core.entries import Entry
from ledger.errors import Overloaded
from ledger.operate import deploy
from ledger.recovery.keeper import Keeper
from ledger.recovery.known import Contradiction, End, Journal, Known
from ledger.report.pool import Pool
from ledger.service.alerts import Alerts
from ledger.service.apart import Apart
from ledger.service.aside import Aside
from ledger.service.attestations import Attestations
from ledger.service.catalogue import Catalogue
from ledger.service.certificates import AT_ONCE, Certificates
from ledger.service.costing import Costing
from ledger.service.datasets import Datasets
from ledger.service.history import History
from ledger.service.journals import Journals
from ledger.service.keys import Keys
from ledger.service.last_uses import LastUses
from ledger.service.overview import Overview
from ledger.service.past_runs import PastRunsService
from ledger.service.planned_runs import RunsPlanner
from ledger.service.planner import Planner
from ledger.service.proposals import Proposals
from ledger.service.runs import Runs
from ledger.service.tenants import Tenants
from ledger.service.writer import Writer
from ledger.settings import Settings
from ledger.signer import keyfile
from ledger.signer.heads import Heads
from ledger.signer.publish import Publisher
from ledger.store import Store, engine_for

log = logging.getLogger(__name__)


class _Closing(Protocol):
    def close(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The services of one process, and its background threads."""

    services: Services
    last_uses: LastUses
    publisher: Publisher | None
    keeper: Keeper

    def start(self) -> None:
        """Compare the database with the heads that were kept of it, and start every thread."""
        self.keeper.start()
        self.services.writer.start()
        self.services.courier.start()
        self.last_uses.start()
        self.keeper.report()
        if self.publisher is not None:
            self.publisher.start()

    async def close(self) -> None:
        """End the report processes and every thread: first those that submit to the writer, then the writer, then those
        that follow commits."""
        await self.services.reports.close()
        services, publisher = self.services, [] if self.publisher is None else [self.publisher]
        parts: list[_Closing] = [self.last_uses, services.certificates, services.aside, services.courier]
        for part in (*parts, services.writer, self.keeper, *publisher, services.store):
            try:
                part.close()
            except Exception as error:  # a database that is gone keeps no process from ending
                log.error("the end of %s failed", type(part).__name__, exc_info=error)


SEAL_TYPE: Final = "privacy-ledger-seal"
"""The `typ` of a signature from which sign-ins that have begun are sealed. Nothing that is shown has it."""


class Builder:
    """Builds a server. Keys and issuers are read when a builder is made, so an invalid file is reported at once."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._signer = keyfile.signer_for(settings)
        self._issuers = None if settings.oidc_file is None else Issuers.load(settings.oidc_file)

    def build(self) -> Server:
        """Return a server that is not started yet."""
        memory.share()
        url, prepares = self._settings.database_url.get_secret_value(), self._settings.prepared_statements
        store = Store(engine_for(url, prepares=prepares))
        commits = _Commits(self._metrics)
        known = Known(commits.contradicted)
        keeper = commits.keeper = Keeper(store, known, self._settings.kept_heads)
        writer = commits.writer = self._writer(store, commits, known)
        heads = Heads(store, self._signer, unsignable=known.demand_signable)
        commits.courier = courier = self._courier(store, writer, heads)
        commits.publisher = publisher = self._publisher(store, writer, heads, known)
        keyring = Keyring(store, self._issuers)
        services = self._services(store, writer, heads, courier, keyring, known, keeper)
        self._metrics.watch(writer, services.certificates, courier, services.reports)
        return Server(services=services, last_uses=LastUses(keyring, writer), publisher=publisher, keeper=keeper)

    def _seal(self) -> bytes:
        """Return a secret of all processes of this ledger: a signature that is made for this alone, and never shown."""
        return self._signer.sign("{}", typ=SEAL_TYPE).encode()

    def _writer(self, store: Store, commits: _Commits, known: Known) -> Writer:
        settings = self._settings
        return Writer(
            store,
            threads=1 if settings.is_sqlite else settings.writer_threads,
            queue_max=settings.queue_max,
            group_max=settings.group_max,
            on_group=self._metrics.group,
            on_commit=commits,
            known=known,
        )

    def _courier(self, store: Store, writer: Writer, heads: Heads) -> Courier:
        return Courier(
            store,
            writer,
            self._signer,
            hosts=Hosts(self._settings.webhook_hosts),
            every_seconds=self._settings.watch_seconds,
            signed_head=heads.signed,
            on_delivery=self._metrics.delivery,
        )

    def _publisher(self, store: Store, writer: Writer, heads: Heads, known: Known) -> Publisher | None:
        folder: Path | None = self._settings.heads_dir
        if folder is None:
            return None

        def contradicted(tenant_id: UUID, alert: Alert) -> None:
            with suppress(Overloaded):  # the next round finds it again
                writer.tell(tenant_id, [alert])

        def differs(journal: Journal, seq: int, hash_: str, stored: int) -> None:
            known.contradict(journal, Contradiction(End(seq, bytes.fromhex(hash_), "this dataset"), stored))

        return Publisher(
            store,
            heads,
            folder,
            keys=self._signer.public_keys(),
            on_outcome=self._metrics.head,
            on_contradiction=contradicted,
            on_difference=differs,
        )

    def _services(
        self,
        store: Store,
        writer: Writer,
        heads: Heads,
        courier: Courier,
        keyring: Keyring,
        known: Known,
        keeper: Keeper,
    ) -> Services:
        processes = self._settings.computing_processes
        certificates = Certificates(
            store,
            seconds_max=self._settings.certificate_seconds_max,
            at_once=processes or AT_ONCE,
            apart=Apart(kept_max=processes) if processes else None,
            on_computed=self._metrics.certificate,
        )
        catalogue = Catalogue(store)
        datasets = Datasets(store=store, writer=writer, catalogue=catalogue, keys=self._signer.public_keys)
        aside = Aside()
        costing = Costing(store, certificates, aside)
        begin_within_us = self._settings.begin_within_seconds * 1_000_000
        runs = Runs(
            store,
            writer,
            catalogue,
            costing,
            self._signer,
            aside,
            begin_within_us=begin_within_us,
            refusals_per_hour=self._settings.refusals_per_hour,
        )
        of_people = () if self._issuers is None else self._issuers.of_people
        sessions = Sessions(
            store,
            idle_seconds=self._settings.session_idle_seconds,
            seconds_max=self._settings.session_seconds_max,
            configured={one.issuer: one.digest() for one in of_people},
        )
        return Services(
            store=store,
            writer=writer,
            keyring=keyring,
            sessions=sessions,
            sign_ins=SignIns(self._issuers, keyring, sessions, seal=self._seal),
            catalogue=catalogue,
            certificates=certificates,
            aside=aside,
            costing=costing,
            datasets=datasets,
            history=History(store=store),
            overview=Overview(store=store),
            runs=runs,
            attestations=Attestations(store=store, runs=runs, heads=heads, signer=self._signer),
            planner=Planner(store, catalogue, costing, known=known),
            runs_planner=RunsPlanner(store, runs.asking, known=known),
            past_runs=PastRunsService(store, writer, catalogue, runs.asking),
            proposals=Proposals(store=store, writer=writer, datasets=datasets, runs=runs),
            tenants=Tenants(store=store, writer=writer),
            keys=Keys(store=store, writer=writer, keyring=keyring),
            alerts=Alerts(store=store, writer=writer, objection=courier.objection),
            journals=Journals(store=store, heads=heads, signer=self._signer),
            signer=self._signer,
            heads=heads,
            courier=courier,
            reports=Pool(self._settings.database_url.get_secret_value(), at_once=self._settings.reports_at_once),
            schema_revision=deploy.newest_revision(),
            known=known,
            keeper=keeper,
        )


class _Commits:
    """Passes each commit on to the followers of commits. Some of them need the writer to exist first."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.courier: Courier | None = None
        self.publisher: Publisher | None = None
        self.keeper: Keeper | None = None
        self.writer: Writer | None = None

    def __call__(
        self, tenant_id: UUID, kinds: Sequence[AlertKind], entries: Sequence[Entry], is_of_tenant: bool
    ) -> None:
        if self.keeper is not None:
            self.keeper.committed(tenant_id, entries, is_of_tenant=is_of_tenant)
        self._metrics.alerts(kinds)
        if kinds and self.courier is not None:
            self.courier.added(tenant_id)
        if self.publisher is not None:
            journals = {entry.dataset_id for entry in entries}
            self.publisher.moved(tenant_id, [*journals, None] if is_of_tenant else journals)

    def contradicted(self, journal: Journal, what: Contradiction) -> None:
        """Raise an alert about a journal that the database contradicts."""
        tenant_id, dataset_id = journal
        is_gone = what.stored is None
        parent = None if dataset_id is None or is_gone else Parent(dataset_id, what.kept.name)
        alert = raising.mismatch(parent, seq=min((what.stored or 0) + 1, what.kept.seq), reason=what.missing)
        if self.writer is not None and not what.is_tenant_gone:
            with suppress(Overloaded):  # it is in the log, and in /readyz
                self.writer.tell(tenant_id, [alert])
