"""Verify every journal of a database, and compare it with the rows that decisions use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from ledger.core.alerting import DEFAULT_ALERTING
from ledger.core.amounts import timestamp
from ledger.core.datasets import AccountKey, Dataset
from ledger.core.entries import Entry, Sealed, TenantEntry
from ledger.core.journal import chain, replay
from ledger.core.journal.policy import Policy, demand_policy
from ledger.core.journal.replay import Replayed
from ledger.core.journal.tenant import KnownKey, ReplayedTenant, alerting_facts, replay_tenant
from ledger.core.people import Tenant
from ledger.errors import JournalBroken
from ledger.operate import deploy, mirror
from ledger.operate.counting import Counting
from ledger.operate.mirror import Mirror
from ledger.settings import Settings
from ledger.store import Key, Reading, Store
from ledger.verifier.witness import Witnesses

PAGE: Final = 1000
UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What is raised when a row is read that the ledger cannot have written."""

E = TypeVar("E", Entry, TenantEntry)


def check_journals(settings: Settings, witnesses: Witnesses | None = None) -> Iterator[dict[str, Any]]:
    """Yield one result for each journal of each tenant.

    `error` is None if it verifies; otherwise `seq` is the first entry that is wrong or missing. witnesses: receipts and
    heads that the journals must contain; a journal that is missing has a result too. Raises Misconfigured.
    """
    held = witnesses or Witnesses()
    left = dict(held.names)
    with deploy.opened_by_owner(settings) as store:
        for tenant_id, tenant in deploy.tenants_of(store):
            left.pop((tenant_id, None), None)
            yield _result(tenant, None, partial(_checked_tenant, store, tenant_id, held))
            policies = _Policies()
            unlisted = _journal_ids(store, tenant_id)
            after = None
            while names := _names(store, tenant_id, after):
                for name, dataset_id in names:
                    unlisted.discard(dataset_id)
                    left.pop((tenant_id, dataset_id), None)
                    yield _result(tenant, name, partial(_checked, store, tenant_id, name, held, policies))
                after = names[-1][0]
            for dataset_id in sorted(unlisted):
                reason = "has entries or accounts, but its dataset has no row"
                yield {
                    "tenant": tenant,
                    "dataset": str(dataset_id),
                    "entries": 0,
                    "seq": 1,
                    "error": f"entry 1: {reason}",
                }
    for journal_id, (tenant, dataset) in left.items():
        first = min(held.held[journal_id], key=lambda statement: statement.seq)
        reason = f"is missing, with its whole journal: {first.source} names entry {first.seq}"
        yield {"tenant": tenant, "dataset": dataset, "entries": 0, "seq": 1, "error": f"entry 1: {reason}"}


def _result(tenant: str, dataset: str | None, checked: Callable[[], int]) -> dict[str, Any]:
    """Return the result of checking one journal. A row that cannot be read must not stop the check of the others."""
    result: dict[str, Any] = {"tenant": tenant, "dataset": dataset, "entries": 0, "seq": None, "error": None}
    try:
        result["entries"] = checked()
    except JournalBroken as error:
        result |= {"seq": error.seq, "error": error.detail}
    except UNREADABLE as error:
        result |= {"seq": 1, "error": f"rows of this journal cannot be read: {error!r}"}
    return result


def _journal_ids(store: Store, tenant_id: UUID) -> set[UUID]:
    with store.reading(tenant_id) as reading:
        return reading.journals.dataset_ids()


def _checked_tenant(store: Store, tenant_id: UUID, held: Witnesses) -> int:
    """Compare the tenant's own journal with its keys and policy. Return the number of entries. Raises JournalBroken."""
    with store.reading(tenant_id) as reading:
        tenant = reading.tenants.current()
        if tenant is None:
            raise JournalBroken("is missing: the tenant has no row", seq=1)
        comparison = held.compare((tenant_id, None))
        replayed = replay_tenant(comparison.over(_tenant_entries(reading)), tenant_id=tenant_id)
        comparison.finish()
        _demand_tenant_rows(reading, tenant, replayed)
    return tenant.seq


def _tenant_entries(reading: Reading) -> Iterator[Sealed]:
    """Yield the tenant's own journal, page by page. Raises JournalBroken if a row differs."""
    rows = _pages(lambda after, limit: reading.journals.tenant_page(after=after, limit=limit))
    for seq, entry in enumerate(rows, start=1):
        yield Sealed(entry.body, entry.hash)
        mirror.demand_columns(entry, chain.parse(entry.body), seq)


def _pages(read: Callable[[int, int], list[E]]) -> Iterator[E]:
    """Yield a whole journal, page by page. Raises JournalBroken if a row cannot have been written by the ledger."""
    after = 0
    while True:
        try:
            page = read(after, PAGE)
        except UNREADABLE:
            page = _one(read, after)
        if not page:
            return
        yield from page
        after = page[-1].seq


def _one(read: Callable[[int, int], list[E]], after: int) -> list[E]:
    try:
        return read(after, 1)
    except UNREADABLE as error:
        raise JournalBroken(f"has a row that cannot be read: {error!r}", seq=after + 1) from None


def _demand_tenant_rows(reading: Reading, tenant: Tenant, replayed: ReplayedTenant) -> None:
    _demand_end((tenant.seq, tenant.head), replayed, "tenant")
    if tenant.second_steward != replayed.second_steward:
        raise JournalBroken("leaves another policy than the tenant's row has", seq=replayed.seq)
    if alerting_facts(tenant.alerting) != (replayed.alerting or alerting_facts(DEFAULT_ALERTING)):
        raise JournalBroken("leaves another alerting than the tenant's row has", seq=replayed.seq)
    after: UUID | None = None
    missing = set(replayed.keys)
    while page := reading.keys.page(after=after, limit=PAGE):
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
    if (run_id := reading.runs.unplaced()) is not None:
        raise JournalBroken(f"is of a tenant with a row for run {run_id}, of which no journal tells", seq=replayed.seq)


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


def _demand_end(row: tuple[int, bytes], replayed: Replayed | ReplayedTenant, what: str) -> None:
    """Check that the row has the end of the journal."""
    if row[0] > replayed.seq:
        raise JournalBroken(f"is missing: the {what}'s row has {row[0]}", seq=replayed.seq + 1)
    if row != (replayed.seq, replayed.head):
        raise JournalBroken(f"is not the end that the {what}'s row names", seq=replayed.seq)


def _names(store: Store, tenant_id: UUID, after: str | None) -> list[tuple[str, UUID]]:
    with store.reading(tenant_id) as reading:
        return reading.datasets.name_page(after=after, limit=PAGE)


class _Policies:
    """The policies of a tenant, read again only if its own journal has grown."""

    def __init__(self) -> None:
        self._end: tuple[int, bytes] | None = None
        self._policies: tuple[Policy, ...] | None = None

    def of(self, reading: Reading) -> tuple[Policy, ...] | None:
        """Return them in this snapshot; None if the tenant's own journal does not verify, which is reported for it."""
        tenant = reading.tenants.current()
        end = None if tenant is None else (tenant.seq, tenant.head)
        if end is None or end != self._end:
            try:
                self._policies = replay_tenant(_tenant_entries(reading), tenant_id=reading.tenant_id).policies
            except (JournalBroken, *UNREADABLE):
                self._policies = None
            self._end = end
        return self._policies


def _checked(store: Store, tenant_id: UUID, name: str, held: Witnesses, policies: _Policies) -> int:
    """Check a dataset in one snapshot, so that concurrent decisions are not taken for errors. Return the number of
    entries. Raises JournalBroken."""
    with store.reading(tenant_id) as reading:
        dataset = reading.datasets.by_name(name)
        if dataset is None:
            raise JournalBroken("is missing: the dataset's row names none", seq=1)
        demand_holds(reading, dataset, held, policies.of(reading))
    return dataset.seq


def demand_holds(reading: Reading, dataset: Dataset, held: Witnesses, policies: Sequence[Policy] | None = None) -> None:
    """Check the dataset's journal against its rows, the witnesses, and the policies of its tenant if they are known.
    Raises JournalBroken."""
    seen, comparison = Mirror(), held.compare((reading.tenant_id, dataset.id))
    rows = _pages(lambda after, limit: reading.journals.page(dataset.id, after=after, limit=limit))
    counting = Counting(reading, dataset)
    entries = comparison.over(seen.over(counting.over(rows)))
    replayed = replay.replay(entries, tenant_id=reading.tenant_id, dataset_id=dataset.id)
    comparison.finish()
    for name, count in sorted(replayed.withheld.items()):
        raise JournalBroken(
            f"names {count} requests in the journal of {name} that do not stand there", seq=replayed.seq
        )
    _demand_end((dataset.seq, dataset.head), replayed, "dataset")
    _demand_rows(reading, dataset, replayed)
    _demand_least(dataset, replayed)
    counting.demand_days(replayed)
    _demand_runs(reading, dataset, replayed, seen)
    _demand_mirrored(reading, dataset, seen)
    if policies is not None:
        demand_policy(policies, replayed.loosenings)


def _demand_rows(reading: Reading, dataset: Dataset, replayed: Replayed) -> None:
    """Compare balances in the rows with those of the journal."""
    if dataset.limit != replayed.limit:
        raise JournalBroken("leaves another limit than the dataset's row has", seq=replayed.seq)
    _demand_accounts(reading, dataset, replayed)
    if dataset.state != replayed.state:
        raise JournalBroken(f"leaves the dataset {replayed.state}, its row says {dataset.state}", seq=replayed.seq)


def _demand_least(dataset: Dataset, replayed: Replayed) -> None:
    """Compare the least limit in the row with that of the journal up to the same entry."""
    least = dataset.least
    if least is None:
        return
    if least.seq > replayed.seq:
        raise JournalBroken(f"is missing: the least limit in the row counts {least.seq}", seq=replayed.seq + 1)
    computed = replayed.charges.least_limit(least.seq)
    is_known = least.amount is not None and computed is not None
    if is_known and computed != least.amount:
        raise JournalBroken("leaves another least limit than the dataset's row has", seq=least.seq)


def _demand_runs(reading: Reading, dataset: Dataset, replayed: Replayed, seen: Mirror) -> None:
    ids = list(replayed.runs)
    for start in range(0, len(ids), PAGE):
        rows = reading.runs.by_id(ids[start : start + PAGE])
        for run_id in ids[start : start + PAGE]:
            seen.demand_run(run_id, rows.get(run_id), *replayed.runs[run_id])
    after: tuple[int, UUID] | None = None
    while page := reading.runs.place_page(dataset.id, after=after, limit=PAGE):
        for placed in page:
            seen.demand_place(mirror.Placed(*placed))
        after = page[-1][3], page[-1][0]
    seen.demand_all_placed()


def _demand_mirrored(reading: Reading, dataset: Dataset, seen: Mirror) -> None:
    """Compare the other rows with the journal."""
    parents = reading.datasets.definitions(ids=[parent.id for parent in dataset.definition.derived_from])
    ancestors = {id_ for parent in parents for id_ in (parent.id, *parent.ancestors)}
    seen.demand_dataset(dataset, ancestors)
    seen.demand_projects(reading.datasets.projects([dataset.id]))
    for proposal_id in sorted(reading.proposals.ids(dataset.id) | seen.proposal_ids):
        seen.demand_proposal(proposal_id, reading.proposals.by_id(proposal_id))


def _demand_accounts(reading: Reading, dataset: Dataset, replayed: Replayed) -> None:
    after: AccountKey | None = None
    seen = 0
    while page := reading.accounts.page(dataset.id, after=after, limit=PAGE):
        for account in page:
            if account != replayed.accounts.get(account.key):
                where = ", ".join(account.key.facts().values()) or "the dataset"
                raise JournalBroken(f"leaves another balance of {where} than its row has", seq=replayed.seq)
        seen += len(page)
        after = page[-1].key
    if seen != len(replayed.accounts):
        raise JournalBroken("leaves more accounts than there are rows", seq=replayed.seq)
