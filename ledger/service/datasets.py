"""Datasets: register, change, show; and their budgets, partitions, projects and fair use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from ledger.accounting.budgets import Budget, limit_of
from ledger.core.commands import AddPartitions, Change, OnDataset, Register, SetBudget, SetFairUse, SetProject
from ledger.core.datasets import DEFAULT_COSTING, Account, Bound, Dataset, FairUse
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor, Consent
from ledger.core.residual import Costing
from ledger.errors import InvalidRequest
from ledger.service import pages, weak
from ledger.service.balances import Balanced, partitions_shown
from ledger.service.catalogue import Catalogue, demand_sight, find_dataset, no_dataset
from ledger.service.definitions import define
from ledger.service.gathered import Gathered
from ledger.service.lost import lost_of
from ledger.service.requests.datasets import (
    DatasetChange,
    NewBudget,
    NewDataset,
    NewFairUse,
    NewPartitions,
    ProjectShare,
)
from ledger.service.shapes.datasets import DatasetPage, DatasetShown, PartitionPage, ProjectShown
from ledger.service.transactions import submit
from ledger.service.two_people import Outcome, proposed
from ledger.service.writer import Writer
from ledger.store import Store
from ledger.suggest import nearest
from ledger.verifier.jws import PublicKeys

PARTITIONS_SHOWN_MAX: Final = 1000


NAMES_MAX: Final = 200
"""How many names are read at once to find the one that was meant: the first ones, and those that begin alike."""


class _Entered(NamedTuple):
    """What a command left."""

    answer: Record
    is_done: bool


class Datasets:
    """Registers, changes and shows datasets."""

    def __init__(self, *, store: Store, writer: Writer, catalogue: Catalogue, keys: Callable[[], PublicKeys]) -> None:
        """keys: the ledger's own public keys, which verify receipts."""
        self._store, self._writer, self._catalogue, self._keys = store, writer, catalogue, keys
        self._shown = Gathered(self._read_shown)

    # --- what shows datasets

    async def show(self, actor: Actor, name: str) -> DatasetShown:
        """Return a dataset with its balance and its partitions. Raises NotFound."""
        demand_sight(actor, name)
        shown = None if "\x00" in name else await self._shown.ask(actor.tenant_id, name)
        if shown is None:
            raise no_dataset(name)
        return shown

    def _read_shown(self, tenant_id: UUID, names: Sequence[str]) -> dict[str, DatasetShown]:
        """Return those of these datasets that there are, as they are shown."""
        with self._store.reading(tenant_id) as reading:
            rows = reading.datasets.by_names(names)
            balanced = Balanced(reading, rows)
            partitions = {
                dataset.id: reading.accounts.partition_page(dataset.id, after=None, limit=PARTITIONS_SHOWN_MAX)
                for dataset in rows
                if dataset.definition.is_partitioned
            }
        return {dataset.definition.name: balanced.dataset(dataset, partitions.get(dataset.id, ())) for dataset in rows}

    def page(self, actor: Actor, *, limit: int, cursor: str | None) -> DatasetPage:
        """Return the datasets that the actor sees, by name."""
        after = pages.after_name(cursor)
        with self._store.reading(actor.tenant_id) as reading:
            rows = reading.datasets.page(after=after, limit=limit + 1, only=actor.datasets)
            balanced = Balanced(reading, rows)
        datasets, following = pages.cut(rows, limit=limit, position=lambda dataset: dataset.definition.name)
        return DatasetPage(items=[balanced.dataset(dataset) for dataset in datasets], next=following)

    def derived(self, actor: Actor, name: str, *, limit: int) -> list[str]:
        """Return the names of the datasets that are derived from one, of those that the actor sees. Raises NotFound."""
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            return reading.datasets.names_derived_from(dataset.id, only=actor.datasets, limit=limit)

    def partitions(self, actor: Actor, name: str, *, limit: int, cursor: str | None) -> PartitionPage:
        """Return a dataset's partitions, by name. Raises NotFound."""
        after = pages.after_name(cursor)
        rows: list[Account] = []
        with self._store.reading(actor.tenant_id) as reading:
            dataset = find_dataset(reading, actor, name)
            if dataset.definition.is_partitioned:
                rows = reading.accounts.partition_page(dataset.id, after=after, limit=limit + 1)
        accounts, following = pages.cut(rows, limit=limit, position=lambda account: account.key.partition)
        return PartitionPage(items=partitions_shown(dataset, list(accounts)), next=following)

    def meant(self, actor: Actor, name: str) -> str | None:
        """Return the dataset that was probably meant by a name that does not exist, among those that the actor sees.

        A limited key sees the datasets in its list, so that no name is read. Otherwise at most twice `NAMES_MAX` are.
        """
        if actor.datasets is not None:
            return nearest(name, sorted(actor.datasets))
        with self._store.reading(actor.tenant_id) as reading:
            rows = reading.datasets.name_page(after=None, limit=NAMES_MAX)
            if len(rows) == NAMES_MAX and name.isascii() and name.isprintable():
                rows += reading.datasets.name_page(after=name[: (len(name) + 1) // 2], limit=NAMES_MAX)
        return nearest(name, (row_name for row_name, _ in rows))

    # --- what changes them

    async def register(self, actor: Actor, body: NewDataset) -> DatasetShown:
        """Register a dataset with its budget. Raises UnitMismatch, NameTaken and InvalidRequest."""
        definition = await define(self._catalogue, actor, body)
        limit = None if body.budget is None else limit_of(body.budget, bound=definition.bound)
        accepts = body.accepts_weak_protection is True
        command = Register(
            actor=actor,
            definition=definition,
            title=body.title,
            description=body.description,
            budget=_declared_or_none(body.budget),
            limit=limit,
            ceiling=_declared_or_none(body.ceiling),
            partitions=tuple(body.partitions or ()),
            costing=_costing(body, definition.bound),
            accepts_weak=weak.is_accepted(body.budget, limit, before=None, accepts=accepts),
        )
        if command.limit is not None and definition.ceiling is not None and command.limit.exceeds(definition.ceiling):
            raise InvalidRequest("budget: is above the ceiling; lower the budget or raise the ceiling", field="budget")
        await submit(self._writer, command)
        return await self.show(actor, body.name)

    async def change(self, actor: Actor, name: str, body: DatasetChange) -> Outcome[DatasetShown]:
        """Freeze, thaw or retire a dataset, or change its title and description."""
        dataset = await self._find(actor, name)
        consent = Consent(uuid4())
        facts = body.state, body.title, body.description, body.reason
        command = Change(actor, dataset.id, *facts, consent, body.costing)
        return await self.apply(command, name)

    async def set_budget(self, actor: Actor, name: str, body: NewBudget) -> Outcome[DatasetShown]:
        """Set a new limit, for every partition too. Raises BudgetBelowSpent and InvalidRequest."""
        dataset = await self._find(actor, name)
        limit, accepts = limit_of(body.budget, bound=dataset.definition.bound), body.accepts_weak_protection is True
        accepts_weak = dataset.limit is not None and weak.is_accepted(
            body.budget, limit, before=dataset.limit, accepts=accepts
        )
        command = SetBudget(
            actor=actor,
            dataset_id=dataset.id,
            budget=_declared(body.budget),
            limit=limit,
            reason=body.reason,
            consent=Consent(uuid4()),
            accepts_weak=accepts_weak,
            lost=None if body.lost is None else lost_of(body.lost, actor, dataset, keys=self._keys()),
        )
        return await self.apply(command, name)

    async def apply(self, command: OnDataset, name: str) -> Outcome[DatasetShown]:
        """Submit a change that may need two people. Return the dataset of this name, or the proposal."""
        outcome = await self._submit(command)
        if not outcome.is_done:
            return Outcome(proposed(outcome.answer), is_done=False)
        return Outcome(await self.show(command.actor, name), is_done=True)

    async def _submit(self, command: OnDataset) -> _Entered:
        """Return the entry that a command left, and whether it made the change or only proposed it."""
        entries = await submit(self._writer, command)
        if not isinstance(entries, tuple):
            raise TypeError("a command on a dataset never repeats an outcome")
        entry = chain.parse(entries[0].body)
        return _Entered(entry, is_done=entry["kind"] != "change-proposed")

    async def add_partitions(self, actor: Actor, name: str, body: NewPartitions) -> Outcome[PartitionPage]:
        """Add partitions, each with the dataset's limit. Raises PartitionsClosed, NameTaken and TooLarge."""
        dataset = await self._find(actor, name)
        command = AddPartitions(actor, dataset.id, tuple(body.names), Consent(uuid4()), body.reason)
        outcome = await self._submit(command)
        if not outcome.is_done:
            return Outcome(proposed(outcome.answer), is_done=False)
        accounts = chain.accounts_of(outcome.answer).values()
        page = PartitionPage(items=partitions_shown(dataset, list(accounts)), next=None)
        return Outcome(page, is_done=True)

    async def set_project(self, actor: Actor, name: str, project: str, body: ProjectShare) -> Outcome[ProjectShown]:
        """Set a project's share. Raises BudgetBelowSpent and TooLarge."""
        dataset = await self._find(actor, name)
        command = SetProject(
            actor=actor,
            dataset_id=dataset.id,
            project=project,
            budget=_declared(body.budget),
            limit=limit_of(body.budget, bound=dataset.definition.bound),
            reason=body.reason,
            consent=Consent(uuid4()),
        )
        outcome = await self._submit(command)
        if not outcome.is_done:
            return Outcome(proposed(outcome.answer), is_done=False)
        changed = await self.show(actor, name)
        share = next(share for share in changed["projects"] if share["name"] == project)
        return Outcome({"dataset": name, **share}, is_done=True)

    async def set_fair_use(self, actor: Actor, name: str, body: NewFairUse) -> Outcome[DatasetShown]:
        """Limit what one principal may hold of the dataset at once, and how many runs it may ask for in an hour."""
        dataset = await self._find(actor, name)
        held = None if body.held is None else limit_of(body.held, bound=dataset.definition.bound)
        fair_use = FairUse(_declared_or_none(body.held), held, body.runs_per_hour, body.waits_above_percent)
        return await self.apply(SetFairUse(actor, dataset.id, fair_use, body.reason, Consent(uuid4())), name)

    async def _find(self, actor: Actor, name: str) -> Dataset:
        return await asyncio.to_thread(self._read, actor, name)

    def _read(self, actor: Actor, name: str) -> Dataset:
        with self._store.reading(actor.tenant_id) as reading:
            return find_dataset(reading, actor, name)


def _costing(body: NewDataset, bound: Bound) -> Costing:
    """Return how a new dataset costs runs. Raises InvalidRequest."""
    if body.costing == "residual" and bound != "certified":
        raise InvalidRequest(
            "costing: residual costs need certificates, and bound clt is an estimate; use certified, or standalone",
            field="costing",
        )
    return body.costing or DEFAULT_COSTING[bound]


def _declared(budget: Budget) -> dict[str, Any]:
    return budget.model_dump(exclude_none=True)


def _declared_or_none(budget: Budget | None) -> dict[str, Any] | None:
    return None if budget is None else _declared(budget)
