"""Datasets, their accounts, and projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.residual import NO_TRAIL, Costing, Trail

Adjacency = Literal["add_or_remove_one", "replace_one", "zero_out"]
Bound = Literal["certified", "clt"]
DatasetState = Literal["active", "frozen", "retired"]
DEFAULT_COSTING: Final[Mapping[Bound, Costing]] = {"certified": "residual", "clt": "standalone"}
"""How a new dataset costs runs: beside what is left, if its costs are certificates."""


class AccountKey(NamedTuple):
    """Identifies an account of a dataset: one partition or the whole; nobody's, a project's or a principal's."""

    dataset_id: UUID
    partition: str | None = None
    project: str | None = None
    principal_id: UUID | None = None

    @property
    def is_base(self) -> bool:
        """Return whether the dataset's own budget is counted in it."""
        return self.project is None and self.principal_id is None

    @property
    def is_whole(self) -> bool:
        """Return whether it is the dataset's own account as a whole."""
        return self.partition is None and self.project is None and self.principal_id is None

    def facts(self) -> dict[str, str]:
        """Return what distinguishes it from the other accounts of its dataset, in the form of answers."""
        named = {"partition": self.partition, "project": self.project, "principal": self.principal_id}
        return {name: str(value) for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Account:
    """Where a budget is counted: `spent + held <= limit + overdrawn`, in both quantities, always.

    A principal's account limits what is held and never what is spent: settling a run gives back its hold there.
    trail: what limits charges that are recorded late, if runs were costed beside what was left.
    """

    key: AccountKey
    limit: Amount
    spent: Amount = ZERO
    held: Amount = ZERO
    overdrawn: Amount = ZERO
    trail: Trail = NO_TRAIL

    @property
    def remaining(self) -> Amount:
        return Amount(
            self.limit.mu_sq_pico - self.spent.mu_sq_pico - self.held.mu_sq_pico,
            self.limit.delta_atto - self.spent.delta_atto - self.held.delta_atto,
        )

    def holding(self, cost: Amount) -> Account:
        """Return the account with a run's cost held."""
        return Account(self.key, self.limit, self.spent, self.held + cost, self.overdrawn, self.trail)

    @property
    def slack(self) -> int | None:
        """Return how much mu² a late charge of the oldest run may be at most; None if that is just what is left."""
        least = self.trail.least
        return None if least is None else min(least, self.remaining.mu_sq_pico)

    def facts(self) -> dict[str, Any]:
        """Return the balance in the form of a record."""
        facts: dict[str, Any] = {
            "limit": self.limit.facts(),
            "spent": self.spent.facts(),
            "held": self.held.facts(),
            "overdrawn": self.overdrawn.facts(),
        }
        if self.trail.items:
            facts["slack"] = str(self.slack)
        return facts


@dataclass(frozen=True, slots=True)
class Balance:
    """What several accounts of one budget amount to: disjoint partitions compose in parallel, so the most counts.

    Every field is taken in each quantity by itself: the most spent and held, the least remaining.
    """

    limit: Amount
    spent: Amount
    held: Amount
    remaining: Amount


class Parent(NamedTuple):
    """A dataset that another one is derived from."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Definition:
    """The definition of a dataset. It never changes once registered, so it can be remembered.

    derived_from: the datasets that it is a copy, filter or join of. ancestors: those, theirs, and so on. ceiling: no
    limit may ever exceed it.
    """

    id: UUID
    name: str
    privacy_unit: str
    adjacency: Adjacency
    bound: Bound
    size: int | None
    is_partitioned: bool = False
    ceiling: Amount | None = None
    derived_from: tuple[Parent, ...] = ()
    ancestors: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class FairUse:
    """What one principal may have of a dataset: how much it may hold at once, how many runs it may ask for in an hour,
    and above which part of a limit, in percent, a run waits for a steward."""

    budget: Mapping[str, Any] | None
    held: Amount | None
    runs_per_hour: int | None
    waits_above_percent: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return the form in a record."""
        facts: dict[str, Any] = {
            "held": self.budget,
            "runs_per_hour": self.runs_per_hour,
            "limit": None if self.held is None else self.held.facts(),
        }
        if self.waits_above_percent is not None:
            facts["waits_above_percent"] = self.waits_above_percent
        return facts

    def loosens(self, before: FairUse) -> bool:
        """Return whether somebody may hold or ask for more than before, in any quantity."""
        more_held = before.held is not None and (self.held is None or bool(self.held.exceeds(before.held)))
        more_runs = before.runs_per_hour is not None and (
            self.runs_per_hour is None or self.runs_per_hour > before.runs_per_hour
        )
        more_alone = before.waits_above_percent is not None and (
            self.waits_above_percent is None or self.waits_above_percent > before.waits_above_percent
        )
        return more_held or more_runs or more_alone


NO_FAIR_USE: Final = FairUse(None, None, None)


class Least(NamedTuple):
    """The least limit under which a journal's first `seq` entries would have been approved: see `ledger.core.least`.
    amount: None if they have too many charges, or cannot be read."""

    seq: int
    amount: Amount | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset with what can change; `seq` and `head` are its journal's newest number and hash.

    limit: of its own account, or of each of its partitions; None if it has no budget. least: for information, computed
    in the background; None if it never was.
    """

    definition: Definition
    title: str
    description: str
    budget: Mapping[str, Any] | None
    limit: Amount | None
    state: DatasetState
    seq: int
    head: bytes
    fair_use: FairUse = NO_FAIR_USE
    created_us: int = 0
    costing: Costing = "standalone"
    least: Least | None = None

    @property
    def id(self) -> UUID:
        return self.definition.id

    def advanced(self) -> Dataset:
        """Return the dataset with one entry more."""
        # As `replace` does, which takes three times as long; there is one of these for every entry.
        return Dataset(
            self.definition,
            self.title,
            self.description,
            self.budget,
            self.limit,
            self.state,
            self.seq + 1,
            self.head,
            self.fair_use,
            self.created_us,
            self.costing,
            self.least,
        )


@dataclass(frozen=True, slots=True)
class Project:
    """A team's share of a dataset's budget: the limit of each of its accounts there."""

    dataset_id: UUID
    name: str
    budget: Mapping[str, Any]
    limit: Amount
