"""What changed a dataset: who froze it, when, why and by which run; every budget; everything that was proposed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from ledger.core.amounts import timestamp
from ledger.core.entries import Entry, Record
from ledger.core.journal import chain
from ledger.core.people import Actor
from ledger.errors import DatasetFrozen, Forbidden, InvalidRequest, LedgerError
from ledger.service import pages
from ledger.service.burndown import By as Step
from ledger.service.burndown import burndown
from ledger.service.catalogue import find_dataset
from ledger.service.change_words import in_words
from ledger.service.past import balance_at
from ledger.service.shapes.datasets import BalanceAt, BurndownShown, ChangePage, ChangeShown, SpendingShown
from ledger.service.spending import By, spending, spendings
from ledger.store import Reading, Store

T = TypeVar("T")
FREEZE_LOOKED_AT_MAX: Final = 2_000
"""How far back a refusal looks for what froze its dataset: a frozen dataset has few new entries."""
CHANGES_MAX: Final = 50
_FREEZING: Final = ("run-settled", "run-reported")
_HIDDEN: Final = {
    **dict.fromkeys(_FREEZING, "frozen: a run executed more than fits"),
    "run-corrected": "a run was corrected",
    "run-entered": "a past run was entered",
}
"""What a change by a run is to a key that is limited to datasets."""
_OF_RUNS: Final = ("void", "correction", "run")


def _demand_others_runs(actor: Actor) -> None:
    """Raise Forbidden for a key that is limited to datasets."""
    if actor.datasets is not None:
        raise Forbidden(
            "This key is limited to datasets, and others' runs may name datasets that it does not see. Use a key"
            " without that limit."
        )


class History:
    """Shows what changed datasets."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def page(self, actor: Actor, name: str, *, limit: int, cursor: str | None) -> ChangePage:
        """Return what changed a dataset, newest first. A page looks at a bounded number of entries, so it may be
        empty and have a `next`. Raises NotFound."""
        position = pages.after_seq(cursor)
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            before = min(position, dataset.seq + 1) if position else dataset.seq + 1
            entries, oldest = reading.journals.changes(dataset.id, before=before, limit=limit)
        items = [_shown(actor, entry) for entry in entries if _is_seen(actor, entry)]
        return ChangePage(items=items, next=pages.cursor_at(oldest) if oldest > 1 else None)

    def balance(self, actor: Actor, name: str, *, at_us: int | None, seq: int | None) -> BalanceAt:
        """Return a dataset's balance as it was at a time, or after an entry. Raises NotFound and InvalidRequest."""
        if (at_us is None) == (seq is None):
            raise InvalidRequest("at: give either a time (`at`) or the number of an entry (`seq`)", field="at")
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            if at_us is not None:
                seq = reading.journals.seq_at(dataset.id, at_us, newest=dataset.seq)
                if seq == 0:
                    made_at = timestamp(dataset.created_us)
                    raise InvalidRequest(f"at: the dataset did not exist then; it is of {made_at}", field="at")
            if seq is None or not 1 <= seq <= dataset.seq:
                raise InvalidRequest(f"seq: the journal has entries 1 to {dataset.seq:,}", field="seq")
            return balance_at(reading, dataset, seq=seq)

    def burndown(
        self,
        actor: Actor,
        name: str,
        *,
        by: Step,
        partition: str | None,
        project: str | None,
        since_us: int | None,
        until_us: int | None,
    ) -> BurndownShown:
        """Return what was spent and held of a dataset's budget over time. Raises NotFound and InvalidRequest."""
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            return burndown(
                *(reading, dataset),
                by=by,
                partition=partition,
                project=project,
                since_us=since_us,
                until_us=until_us,
            )

    def spending(
        self,
        actor: Actor,
        name: str,
        *,
        by: By,
        label: str | None,
        partition: str | None,
        since_us: int | None = None,
    ) -> SpendingShown:
        """Return what each person, project, month or label spent of a dataset's budget, by runs approved since then.

        Raises NotFound, InvalidRequest, and Forbidden for a key that is limited to datasets: its runs name others.
        """
        _demand_others_runs(actor)
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            return spending(reading, dataset, by=by, label=label, partition=partition, since_us=since_us)

    def spendings(self, actor: Actor, name: str, *, bys: Sequence[By], partition: str | None) -> list[SpendingShown]:
        """Return the same, divided in several ways, of all time."""
        _demand_others_runs(actor)
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            return spendings(reading, dataset, bys=bys, label=None, partition=partition)

    async def explaining(self, actor: Actor, work: Awaitable[T]) -> T:
        """Return what this work returns. If a dataset is frozen or retired, the error states since when, why and whom
        to ask."""
        try:
            return await work
        except DatasetFrozen as error:
            raise await asyncio.to_thread(self._explained, actor, error) from error

    async def explained(self, actor: Actor, outcomes: Sequence[T | LedgerError]) -> list[T | LedgerError]:
        """Return the outcomes of a batch, each such error with the same."""
        frozen = {str(one.facts.get("dataset")): one for one in outcomes if isinstance(one, DatasetFrozen)}
        if not frozen:
            return list(outcomes)
        known = {name: await asyncio.to_thread(self._explained, actor, error) for name, error in frozen.items()}
        return [known[str(one.facts.get("dataset"))] if isinstance(one, DatasetFrozen) else one for one in outcomes]

    def _explained(self, actor: Actor, error: DatasetFrozen) -> DatasetFrozen:
        name, state = error.facts.get("dataset"), error.facts.get("state")
        if not isinstance(name, str) or not actor.sees(name):
            return error
        with self._store.reading(actor.tenant_id) as reading:
            change = _last_change_to(reading, actor, name, state=state)
        if change is None:
            return error
        by = change["by"]
        who = "" if by is None else f" by {by['name']} ({by['role']})"
        why = change["reason"] or change["what"]
        ask = "A retired dataset stays retired. Register a new dataset."
        if state == "frozen":
            ask = f"Ask a steward to thaw it: privacy-ledger dataset thaw {name} --reason …"
        return DatasetFrozen(
            f"The dataset {name} is {state} since {change['at'][:19]}Z{who}: {why}. {ask}",
            **error.facts,
            since=change["at"],
            reason=change["reason"],
            by=by,
            run=change["run"],
        )


def _last_change_to(reading: Reading, actor: Actor, name: str, *, state: object) -> ChangeShown | None:
    """Return what gave a dataset its state, if that is among its newest entries."""
    dataset = find_dataset(reading, actor, name)
    before = dataset.seq + 1
    entries, _ = reading.journals.changes(
        dataset.id, before=before, limit=CHANGES_MAX, looked_at_max=FREEZE_LOOKED_AT_MAX
    )
    for entry in entries:
        record = chain.parse(entry.body)
        if record.get("state") == state and entry.kind != "dataset-registered":
            return _shown(actor, entry)
    return None


def _is_seen(actor: Actor, entry: Entry) -> bool:
    """Return whether a key sees a change. One that is limited to datasets sees none about a run: it may be another's,
    and name other datasets."""
    if actor.datasets is None:
        return True
    if entry.kind not in ("change-proposed", "proposal-refused"):
        return True
    return chain.parse(entry.body)["what"] not in _OF_RUNS


def _shown(actor: Actor, entry: Entry) -> ChangeShown:
    record: Record = chain.parse(entry.body)
    proposal = record.get("proposal")
    is_by_run = entry.kind in _HIDDEN
    is_hidden = is_by_run and actor.datasets is not None
    seconded = proposal if isinstance(proposal, dict) else None
    return ChangeShown(
        seq=entry.seq,
        at=record["at"],
        kind=entry.kind,
        what=_HIDDEN[entry.kind] if is_hidden else in_words(record),
        by=None if is_hidden else record["actor"],
        reason=None if is_hidden or entry.kind in _FREEZING else _reason(record),
        run=record.get("run", record.get("about_run")) if not is_hidden else None,
        proposal=proposal if isinstance(proposal, str) else None if seconded is None else seconded["id"],
        proposed_by=None if seconded is None or is_hidden else seconded["by"],
        proposed_at=None if seconded is None else seconded["at"],
        hash=entry.hash.hex(),
    )


def _reason(record: Record) -> str | None:
    proposes = record.get("proposes", {})
    places = (record, record.get("request", {}), proposes, proposes.get("request", {}))
    return next((str(place["reason"]) for place in places if place.get("reason")), None)
