"""What the model keeps of one tenant, in the words of docs/reference/export.md."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.model.prices import NOTHING, Amount, Json, segmented, steps_most

Key = tuple[str | None, str | None, str | None]
"""Of an account in its dataset: partition, project, principal."""
OWN: Final[Key] = (None, None, None)
Problem = tuple[int, str]
FROZEN, RUN_STATE, TAKEN = (409, "dataset-frozen"), (409, "run-state"), (409, "name-taken")
INVALID, MISMATCH, UNKNOWN = (422, "invalid-request"), (409, "unit-mismatch"), (404, "not-found")
FORBIDDEN, BELOW, REUSED = (403, "forbidden"), (409, "budget-below-spent"), (422, "idempotency-key-reused")
TOO_LARGE: Final[Problem] = (413, "too-large")
CLOSED, ANSWERED, LIMITED = (409, "partitions-closed"), (409, "proposal-state"), (429, "rate-limited")
MECHANISM: Final[Problem] = (422, "invalid-mechanism")


class Refused(Exception):
    """One of these errors is answered, and nothing happens."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = frozenset(problems)


def demand(*problems: tuple[Problem, object]) -> None:
    """Raises the errors whose fault is there."""
    if any(fault for _, fault in problems):
        raise Refused(*(problem for problem, fault in problems if fault))


@dataclass(frozen=True)
class Person:
    """A principal with its key, which can be limited to datasets or projects."""

    name: str
    role: str
    id: str
    datasets: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None

    def actor(self) -> Json:
        return {"principal": self.id, "name": self.name, "role": self.role}

    def sees(self, dataset: str) -> bool:
        return self.datasets is None or dataset in self.datasets


@dataclass
class Balance:
    """An account: docs/reference/export.md, "Accounts"."""

    limit: Amount
    spent: Amount = NOTHING
    held: Amount = NOTHING
    overdrawn: Amount = NOTHING

    @property
    def used(self) -> Amount:
        return self.spent + self.held

    @property
    def remaining(self) -> Amount:
        return self.limit - self.used

    def settle_overdrawn(self, is_overrun: bool) -> None:
        """After an overrun exactly what is beyond the limit, otherwise never more than before ("`overdrawn`")."""
        beyond = (self.used - self.limit).most(NOTHING)
        self.overdrawn = beyond if is_overrun else self.overdrawn.least(beyond)

    def json(self) -> Json:
        return {part: getattr(self, part).json() for part in ("limit", "spent", "held", "overdrawn")}


@dataclass
class Dataset:
    """A dataset, its accounts and its journal."""

    name: str
    terms: tuple[str, str, str]
    """Privacy unit, adjacency, bound."""
    parents: tuple[str, ...]
    is_partitioned: bool
    budget: Json | None
    ceiling: Amount | None
    state: str = "active"
    projects: dict[str, Json] = field(default_factory=dict)
    fair_use: Json = field(default_factory=lambda: {"held": None, "runs_per_hour": None})
    accounts: dict[Key, Balance] = field(default_factory=dict)
    journal: list[Json] = field(default_factory=list)

    @property
    def base(self) -> list[Key]:
        """Its own account or those of its partitions; neither without a budget."""
        return [key for key in self.accounts if key[1:] == (None, None)]

    @property
    def scopes(self) -> list[str | None]:
        """The partitions; the whole if it is not partitioned."""
        return [key[0] for key in self.base] if self.is_partitioned else [None]

    def open(self, key: Key, limit: Amount) -> Key:
        """An account that is charged for the first time begins with the limit and nothing else."""
        self.accounts.setdefault(key, Balance(limit))
        return key

    def crowded(self, keys: Iterable[Key], limit: Amount) -> list[Key]:
        """The accounts in which more is spent and held than this limit."""
        return [key for key in keys if self.accounts[key].used.exceeds(limit)]

    def relimit(self, keys: Iterable[Key], limit: Amount) -> None:
        for key in keys:
            self.accounts[key].limit = limit


@dataclass(eq=False)
class Run:
    """A run that was decided on, with the accounts that it charges for good."""

    owner: Person
    body: Json
    adjacency: str
    charges: dict[str, list[Key]]
    via: dict[str, list[str]]
    """By dataset, through which of the names in the request it was reached."""
    state: str = "held"
    reported: bool = False
    """Whether it reported a number that no budget could cover, which a steward has to look at."""
    ended_by: Json | None = None
    """What a steward said of that number."""
    charged: Amount | None = None
    answers: dict[str, tuple[Json | None, Any]] = field(default_factory=dict)
    """By call, what was sent and what was answered first."""
    id: str = ""

    @property
    def mechanism(self) -> Json:
        return dict(self.body["mechanism"])

    @property
    def segments(self) -> int:
        return int(self.body.get("segments", 1))

    @functools.cached_property
    def cost(self) -> Amount:
        return segmented(self.mechanism, self.adjacency, self.segments).rounded()

    @property
    def steps_max(self) -> int:
        return steps_most(self.mechanism, self.segments)

    @property
    def waits(self) -> bool:
        """For a steward."""
        return self.reported and self.state == "started"

    @property
    def is_open(self) -> bool:
        return self.state in ("held", "started")


@dataclass(eq=False)
class Proposal:
    """What one steward proposed and another approves or refuses: "What takes two people"."""

    what: str
    by: Person
    datasets: list[str]
    check: Callable[[], object]
    """Raises `Refused` if it cannot be done as things are."""
    do: Callable[[Person, Json], Answer]
    """Does it for whoever did or approved it, with what the entry says of the proposal."""
    run: Run | None = None
    state: str = "open"
    id: str = ""


@dataclass
class Answer:
    """What must be answered: at least this body, or `first` again, letter by letter."""

    status: int
    body: Json = field(default_factory=dict)
    run: Run | None = None
    call: str = ""
    """Under which the answer is kept, to be given again."""
    proposal: Proposal | None = None
    first: Any = None
    binding: set[tuple[str, Key, str, int, int, int]] = field(default_factory=set)
    """Dataset, account, quantity, requested, remaining, limit: all that a refused run does not fit in."""
    left: Amount | None = None
    """What remains, in each quantity for itself, of all the accounts that a refused run was to charge."""
    overdrawn: set[tuple[str, Key, str]] = field(default_factory=set)
    """Dataset, account, quantity: all that an overrun went beyond."""
    results: list[Answer | Refused] = field(default_factory=list)
