"""Adding up every journal of a database and holding it against the rows that decisions are made on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from ledger import deploy, journal
from ledger.errors import JournalBroken
from ledger.journal import KnownKey, Replayed, ReplayedTenant
from ledger.model import DEFAULT_ALERTING, AccountKey, Dataset, Tenant, timestamp
from ledger.settings import Settings
from ledger.store import Key, Reading, Store

PAGE: Final = 1000


def check(settings: Settings) -> Iterator[dict[str, Any]]:
    """One result for each dataset of each tenant: `error` is None where all of it holds. Raises Misconfigured."""
    with deploy.opened_by_owner(settings) as store:
        for tenant_id, tenant in deploy.tenants_of(store):
            yield {"tenant": tenant, "dataset": None, **_checked_tenant(store, tenant_id)}
            after = None
            while names := _names(store, tenant_id, after):
                for name in names:
                    yield {"tenant": tenant, "dataset": name, **_checked(store, tenant_id, name)}
                after = names[-1]


def _checked_tenant(store: Store, tenant_id: UUID) -> dict[str, Any]:
    """The tenant's own journal, held against its keys and its policy."""
    with store.reading(tenant_id) as reading:
        tenant = reading.tenant()
        if tenant is None:
            return {"entries": 0, "seq": None, "error": "the tenant is gone"}
        try:
            replayed = journal.replay_tenant(_tenant_entries(reading), tenant_id=tenant_id)
            _demand_tenant_rows(reading, tenant, replayed)
        except JournalBroken as error:
            return {"entries": tenant.seq, "seq": error.seq, "error": error.detail}
    return {"entries": tenant.seq, "seq": None, "error": None}


def _tenant_entries(reading: Reading) -> Iterator[tuple[str, bytes]]:
    after = 0
    while page := reading.tenant_entry_page(after=after, limit=PAGE):
        for entry in page:
            yield entry.body, entry.hash
        after = page[-1].seq


def _demand_tenant_rows(reading: Reading, tenant: Tenant, replayed: ReplayedTenant) -> None:
    if (tenant.seq, tenant.head) != (replayed.seq, replayed.head):
        raise JournalBroken("is not where the tenant's row says that the journal ends", seq=replayed.seq)
    if tenant.second_steward != replayed.second_steward:
        raise JournalBroken("leaves another policy than the tenant's row has", seq=replayed.seq)
    if journal.alerting_facts(tenant.alerting) != (replayed.alerting or journal.alerting_facts(DEFAULT_ALERTING)):
        raise JournalBroken("leaves another alerting than the tenant's row has", seq=replayed.seq)
    after: UUID | None = None
    missing = set(replayed.keys)
    while page := reading.keys(after=after, limit=PAGE):
        missing -= {key.id for key in page}
        for key in page:
            known = replayed.keys.get(key.id)
            if known is not None and known != _known(key):
                raise JournalBroken(f"leaves the key {key.id} other than its row has it", seq=replayed.seq)
            if known is None and replayed.is_whole:
                raise JournalBroken(f"tells of no key {key.id}, and there is a row", seq=replayed.seq)
        after = page[-1].id
    if missing:
        raise JournalBroken(f"tells of the key {min(missing)}, and there is no row", seq=replayed.seq)


def _known(key: Key) -> KnownKey:
    return KnownKey(
        key.principal_id,
        key.name,
        key.role,
        key.datasets,
        key.projects,
        None if key.expires_us is None else timestamp(key.expires_us),
        key.revoked_us is not None,
    )


def _names(store: Store, tenant_id: UUID, after: str | None) -> list[str]:
    with store.reading(tenant_id) as reading:
        return [dataset.definition.name for dataset in reading.dataset_page(after=after, limit=PAGE, only=None)]


def _checked(store: Store, tenant_id: UUID, name: str) -> dict[str, Any]:
    """In one snapshot, so that what is decided meanwhile is not taken for an error."""
    with store.reading(tenant_id) as reading:
        dataset = reading.dataset(name)
        if dataset is None:
            return {"entries": 0, "seq": None, "error": "the dataset is gone"}
        try:
            replayed = journal.replay(entries(reading, dataset.id), tenant_id=tenant_id, dataset_id=dataset.id)
            _demand_rows(reading, dataset, replayed)
        except JournalBroken as error:
            return {"entries": dataset.seq, "seq": error.seq, "error": error.detail}
    return {"entries": dataset.seq, "seq": None, "error": None}


def entries(reading: Reading, dataset_id: UUID) -> Iterator[tuple[str, bytes]]:
    """A whole journal, a page at a time, as `replay` wants it."""
    after = 0
    while page := reading.entry_page(dataset_id, after=after, limit=PAGE):
        for entry in page:
            yield entry.body, entry.hash
        after = page[-1].seq


def _demand_rows(reading: Reading, dataset: Dataset, replayed: Replayed) -> None:
    """The rows say what the journal says."""
    if (dataset.seq, dataset.head) != (replayed.seq, replayed.head):
        raise JournalBroken("is not where the dataset's row says that the journal ends", seq=replayed.seq)
    if dataset.limit != replayed.limit:
        raise JournalBroken("leaves another limit than the dataset's row has", seq=replayed.seq)
    _demand_accounts(reading, dataset, replayed)
    if dataset.state != replayed.state:
        raise JournalBroken(f"leaves the dataset {replayed.state}, its row says {dataset.state}", seq=replayed.seq)
    ids = list(replayed.runs)
    for start in range(0, len(ids), PAGE):
        rows = reading.runs_by_id(ids[start : start + PAGE])
        for run_id in ids[start : start + PAGE]:
            state, cost = replayed.runs[run_id]
            row = rows.get(run_id)
            if row is None or row.state != state or (row.cost is not None and row.cost != cost):
                raise JournalBroken(f"leaves run {run_id} {state}, its row says otherwise", seq=replayed.seq)
    if reading.run_count(dataset.id) != len(ids):
        raise JournalBroken("leaves fewer runs than there are rows", seq=replayed.seq)


def _demand_accounts(reading: Reading, dataset: Dataset, replayed: Replayed) -> None:
    after: AccountKey | None = None
    seen = 0
    while page := reading.account_page(dataset.id, after=after, limit=PAGE):
        for account in page:
            if account != replayed.accounts.get(account.key):
                where = ", ".join(account.key.facts().values()) or "the dataset"
                raise JournalBroken(f"leaves another balance of {where} than its row has", seq=replayed.seq)
        seen += len(page)
        after = page[-1].key
    if seen != len(replayed.accounts):
        raise JournalBroken("leaves more accounts than there are rows", seq=replayed.seq)
