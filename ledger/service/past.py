"""A dataset's balance as it was, from the balances that its entries state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ledger.core.daily import day_of, together
from ledger.core.datasets import Account, AccountKey, Balance, Dataset
from ledger.core.entries import Entry, Record
from ledger.core.journal import chain
from ledger.errors import InvalidRequest
from ledger.service.balances import balance_shown, epsilons_shown
from ledger.service.portions import of_balance
from ledger.service.shapes.datasets import BalanceAt
from ledger.store import Reading

LOOKED_AT_MAX: Final = 20_000
"""How many entries are looked at for the balances of all partitions."""
AT_ONCE: Final = 500


def balance_at(reading: Reading, dataset: Dataset, *, seq: int) -> BalanceAt:
    """Return the balance after an entry. Raises InvalidRequest if partitions were last charged too many entries ago."""
    entry = reading.journals.at(dataset.id, seq)
    if entry is None:
        raise ArithmeticError(f"entry {seq} is not in the journal")
    record = chain.parse(entry.body)
    is_partitioned = dataset.definition.is_partitioned
    accounts = _partitions(reading, dataset, entry) if is_partitioned else _whole(dataset, record)
    balance = together(iter(accounts)) if accounts else None
    budget = _budget(reading, dataset, seq)
    return BalanceAt(
        dataset=dataset.definition.name,
        seq=seq,
        at=record["at"],
        budget=budget,
        costing=dataset.costing,
        balance=None if balance is None else balance_shown(balance),
        percent=None if balance is None else of_balance(balance),
        epsilon=[] if balance is None else epsilons_shown(budget, balance),
        partition_count=len(accounts) if is_partitioned else None,
    )


def _whole(dataset: Dataset, record: Record) -> list[Balance]:
    """Return the balance of the dataset's own account, which every entry states, if it has one."""
    own = chain.accounts_of(record).get(AccountKey(dataset.id))
    return [] if own is None else [_balance(own)]


def _balance(account: Account) -> Balance:
    return Balance(account.limit, account.spent, account.held, account.remaining)


def _partitions(reading: Reading, dataset: Dataset, newest: Entry) -> list[Balance]:
    """Return the balances of all partitions that there were: each as the newest entry states it that touched it. Only
    the entries of that day are read, if those before are counted."""
    found: dict[str, Balance] = {}
    count = _partition_count(reading, dataset, newest.seq)
    counted_seq = reading.days.counted_seq(dataset.id)
    day = day_of(newest.at_us)
    for looked_at, entry in enumerate(newest_first(reading, dataset, newest.seq)):
        if len(found) == count:
            break
        if day_of(entry.at_us) < day and entry.seq <= counted_seq:
            for place, counted in reading.days.newest(dataset.id, until=day - 1).items():
                if place.partition and not place.project:
                    found.setdefault(place.partition, counted.balance)
            break
        if looked_at == LOOKED_AT_MAX:
            raise InvalidRequest(
                (
                    f"at: some partitions were last charged more than {LOOKED_AT_MAX:,} entries before. Make a report"
                    f" until then: privacy-ledger report {dataset.definition.name} --to TIME"
                ),
                field="at",
            )
        for key, account in chain.accounts_of(chain.parse(entry.body)).items():
            if key.partition is not None and key.project is None and key.principal_id is None:
                found.setdefault(key.partition, _balance(account))
    return list(found.values())


def newest_first(reading: Reading, dataset: Dataset, seq: int) -> Iterator[Entry]:
    """Yield the entries from this one back to the first."""
    while seq > 0:
        entries = reading.journals.before(dataset.id, before=seq + 1, limit=AT_ONCE)
        yield from entries
        seq = entries[-1].seq - 1 if entries else 0


def texts_newest_first(reading: Reading, dataset: Dataset, seq: int) -> Iterator[str]:
    """Yield the texts of the same entries."""
    while seq > 0:
        page = reading.journals.texts_before(dataset.id, before=seq + 1, limit=AT_ONCE)
        yield from (body for _, body in page)
        seq = page[-1][0] - 1 if page else 0


def _partition_count(reading: Reading, dataset: Dataset, seq: int) -> int:
    """Return how many partitions there were: those of now, without those that were added later."""
    count = reading.accounts.partition_counts([dataset.id]).get(dataset.id, 0)
    for added in reading.journals.seqs_of_kinds(dataset.id, ["partitions-added"]):
        entry = reading.journals.at(dataset.id, added) if added > seq else None
        if entry is not None:
            count -= len(chain.parse(entry.body)["names"])
    return count


def _budget(reading: Reading, dataset: Dataset, seq: int) -> dict[str, Any] | None:
    """Return the budget that was in force."""
    set_at = max(
        (at for at in reading.journals.seqs_of_kinds(dataset.id, ["dataset-registered", "budget-set"]) if at <= seq),
        default=None,
    )
    entry = None if set_at is None else reading.journals.at(dataset.id, set_at)
    return None if entry is None else chain.parse(entry.body)["budget"]
