"""The books: everything that a decision reads and changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ledger.core.alerting import DEFAULT_ALERTING, Alerting
from ledger.core.amounts import ZERO
from ledger.core.datasets import Account, AccountKey, Dataset, Project
from ledger.core.people import Proposal
from ledger.core.runs import Run


@dataclass(frozen=True, slots=True)
class Books:
    """The locked rows that a group of commands is decided on, and what they become.

    partitions: the names of a dataset's partitions, complete where a command asks for all of them.
    accounts: with every overdrawn one of a dataset where something is asked that can take a second person.
    projects: by dataset and name. recent: when a principal's newest runs on a dataset were decided, oldest first.
    refusals: when a principal's newest runs were refused, oldest first. proposals: those that are asked about, and the
    open ones of a dataset. takes_two: the tenant's policy. alerting: what it wants to be told of. reported: of a
    dataset, the runs whose numbers wait for a steward; read where it is frozen, as it is from the report on.
    """

    datasets: dict[UUID, Dataset] = field(default_factory=dict)
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    runs: dict[UUID, Run] = field(default_factory=dict)
    partitions: dict[UUID, tuple[str, ...]] = field(default_factory=dict)
    projects: dict[tuple[UUID, str], Project] = field(default_factory=dict)
    recent: dict[tuple[UUID, UUID], tuple[int, ...]] = field(default_factory=dict)
    refusals: dict[UUID, tuple[int, ...]] = field(default_factory=dict)
    proposals: dict[UUID, Proposal] = field(default_factory=dict)
    reported: dict[UUID, frozenset[UUID]] = field(default_factory=dict)
    takes_two: bool = False
    alerting: Alerting = DEFAULT_ALERTING

    def copy(self) -> Books:
        """Books of their own, for a decision that may come to nothing."""
        return Books(
            dict(self.datasets),
            dict(self.accounts),
            dict(self.runs),
            dict(self.partitions),
            dict(self.projects),
            dict(self.recent),
            dict(self.refusals),
            dict(self.proposals),
            dict(self.reported),
            self.takes_two,
            self.alerting,
        )

    def is_overdrawn(self, dataset_id: UUID) -> bool:
        """Whether an account of a dataset is overdrawn as the books are now, whatever they were when they were read."""
        return any(key.dataset_id == dataset_id and account.overdrawn != ZERO for key, account in self.accounts.items())


@dataclass(slots=True)
class ReadSet:
    """What of a dataset a group of commands has to see, beside the account that it has as a whole.

    partitions: the names, or None for all. projects, principals: whose accounts, in each of those partitions.
    is_every_project: what every project's share is, to know how many there are. is_guarded: whether what is asked can
    take a second person. runs_per_hour: the most that a command sets; so many of a principal's newest runs are seen,
    where the dataset's own limit is lower.
    """

    partitions: set[str] | None = field(default_factory=set)
    projects: set[str] = field(default_factory=set)
    principals: set[UUID] = field(default_factory=set)
    is_every_project: bool = False
    is_guarded: bool = False
    runs_per_hour: int = 0

    def add_partitions(self, names: Sequence[str] | None) -> None:
        """These too; None is all."""
        if names is None:
            self.partitions = None
        elif self.partitions is not None:
            self.partitions.update(names)
