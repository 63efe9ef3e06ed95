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
    """The locked rows that a group of commands is decided on, and their new values.

    partitions: the names of a dataset's partitions, complete if a command asks for all of them. accounts: include every
    overdrawn one of a dataset if a command may need a second person. projects: by dataset and name. recent: when a
    principal's newest runs on a dataset were decided, oldest first. refusals: when a principal's newest runs were
    refused, oldest first. proposals: those that commands are about, and the open ones of a dataset. takes_two: the
    tenant's policy. alerting: the tenant's alert settings. reported: for a dataset, the runs whose numbers wait for a
    steward; read if it is frozen, as it is from the report on.
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
        """Return separate books, for a decision that may be dropped."""
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
        """Return whether an account of a dataset is overdrawn in the books as they are now, whatever they were when
        read."""
        return any(key.dataset_id == dataset_id and account.overdrawn != ZERO for key, account in self.accounts.items())


@dataclass(slots=True)
class ReadSet:
    """The part of a dataset that a group of commands must see, in addition to the account of the whole.

    partitions: the names, or None for all. projects, principals: whose accounts, in each of those partitions.
    is_every_project: every project's share, to count them. is_every_held: every account that holds something.
    is_guarded: whether a command may need a second person. runs_per_hour: the most that a command sets; this many of a
    principal's newest runs are read if the dataset's own limit is lower.
    """

    partitions: set[str] | None = field(default_factory=set)
    projects: set[str] = field(default_factory=set)
    principals: set[UUID] = field(default_factory=set)
    is_every_project: bool = False
    is_every_held: bool = False
    is_guarded: bool = False
    runs_per_hour: int = 0

    def add_partitions(self, names: Sequence[str] | None) -> None:
        """Add these partitions; None adds all."""
        if names is None:
            self.partitions = None
        elif self.partitions is not None:
            self.partitions.update(names)
