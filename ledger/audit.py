"""Adding up every journal of a database and holding it against the rows that decisions are made on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from ledger import deploy, journal
from ledger.errors import JournalBroken
from ledger.journal import Replayed
from ledger.model import AccountKey, Dataset
from ledger.settings import Settings
from ledger.store import Reading, Store

PAGE: Final = 1000


def check(settings: Settings) -> Iterator[dict[str, Any]]:
    """One result for each dataset of each tenant: `error` is None where all of it holds. Raises Misconfigured."""
    with deploy.opened(settings) as store:
        for tenant_id, tenant in store.tenants():
            after = None
            while names := _names(store, tenant_id, after):
                for name in names:
                    yield {"tenant": tenant, "dataset": name, **_checked(store, tenant_id, name)}
                after = names[-1]


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
