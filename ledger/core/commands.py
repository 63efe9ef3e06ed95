"""The commands that a decision can carry out.

Each command that succeeds leaves exactly one entry in the journal of each dataset that it touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import AccountKey, DatasetState, Definition, FairUse
from ledger.core.people import Actor, Consent
from ledger.core.residual import Costing, Residual
from ledger.core.runs import BEGIN_WITHIN_US, REFUSALS_PER_HOUR, Excess, Use


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key, which belongs to its principal, and the digest of the body it was used for."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Entries that a journal had and the database does not: the numbers of the first and the last, and the last one's
    hash. runs: the cost of each run that was approved in them and is known, by its id."""

    first: int
    seq: int
    hash: bytes
    runs: Mapping[UUID, Amount]

    def covers(self, seq: int, hash_: bytes) -> bool:
        """Return whether an acknowledged entry is among them."""
        return self.seq > seq or (self.seq, self.hash) == (seq, hash_)

    @property
    def cost(self) -> Amount:
        """Return the cost of all these runs."""
        return sum(self.runs.values(), ZERO)

    def facts(self) -> dict[str, Any]:
        """Return this in the form of an entry."""
        runs = [{"run": str(run_id), "cost": cost.facts()} for run_id, cost in sorted(self.runs.items())]
        return {"first": self.first, "seq": self.seq, "hash": self.hash.hex(), "runs": runs}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Lost:
        """Return what an entry states."""
        runs = {UUID(run["run"]): Amount.from_facts(run["cost"]) for run in facts["runs"]}
        return cls(facts["first"], facts["seq"], bytes.fromhex(facts["hash"]), runs)


@dataclass(frozen=True, slots=True)
class Register:
    """A steward registers a dataset. `ceiling` is as declared; the definition has the corresponding limit.

    accepts_weak: the budget protects weakly, and the steward stated that this is accepted.
    """

    actor: Actor
    definition: Definition
    title: str
    description: str
    budget: Mapping[str, Any] | None
    limit: Amount | None
    ceiling: Mapping[str, Any] | None = None
    partitions: tuple[str, ...] = ()
    costing: Costing = "standalone"
    accepts_weak: bool = False

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return (self.definition.id,)


@dataclass(frozen=True, slots=True)
class _OnDataset:
    """A command of a steward about one dataset."""

    actor: Actor
    dataset_id: UUID

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return (self.dataset_id,)


@dataclass(frozen=True, slots=True)
class Change(_OnDataset):
    """A steward changes a dataset's state, title or description, or how its runs are costed; None leaves one
    unchanged."""

    state: DatasetState | None
    title: str | None
    description: str | None
    reason: str | None
    consent: Consent
    costing: Literal["residual"] | None = None

    @property
    def only_retires(self) -> bool:
        """Return whether it retires the dataset and changes nothing else."""
        return self.state == "retired" and (self.title, self.description, self.costing) == (None, None, None)


@dataclass(frozen=True, slots=True)
class SetBudget(_OnDataset):
    """A steward sets a new limit, for every partition too. accepts_weak: as for `Register`. lost: the limit also
    accounts for entries that the database lost."""

    budget: Mapping[str, Any]
    limit: Amount
    reason: str
    consent: Consent
    accepts_weak: bool = False
    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class AddPartitions(_OnDataset):
    """A steward adds partitions, and states that no privacy unit is in two."""

    names: tuple[str, ...]
    consent: Consent
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SetProject(_OnDataset):
    """A steward sets a project's share."""

    project: str
    budget: Mapping[str, Any]
    limit: Amount
    reason: str | None
    consent: Consent


@dataclass(frozen=True, slots=True)
class SetFairUse(_OnDataset):
    """A steward sets what one principal may have."""

    fair_use: FairUse
    reason: str
    consent: Consent


class Second(NamedTuple):
    """A steward who approves a run that waited, and why."""

    actor: Actor
    reason: str | None


@dataclass(frozen=True, slots=True)
class Ask:
    """A run asks for approval. `request` is recorded as it was sent, `costing` has how the cost was computed; texts:
    the canonical JSON of some of what that is, by the names that it has in the record.

    cost: by itself. residual: its mu² beside what is left, where the datasets cost runs so. begin_within_us: how long
    the approval's receipt is valid. refusals_per_hour: after this many refusals within an
    hour, no further refusal of this principal is recorded. second: who approves it, if it waited for a steward.
    is_past: it was executed before there was a ledger, and a steward enters it; it is charged, and never refused.
    """

    actor: Actor
    run_id: UUID
    claim: Claim
    uses: tuple[Use, ...]
    project: str | None
    cost: Amount
    request: Mapping[str, Any]
    costing: Mapping[str, Any]
    valid_for_us: int
    begin_within_us: int = BEGIN_WITHIN_US
    refusals_per_hour: int = REFUSALS_PER_HOUR
    texts: Mapping[str, str] = field(default_factory=dict)
    residual: Residual | None = None
    second: Second | None = None
    is_past: bool = False

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return tuple([use.dataset_id for use in self.uses])


@dataclass(frozen=True, slots=True)
class Batch:
    """Several runs ask together, one after another; `is_atomic` means all or none, `takes_most` as many as fit.

    is_spoilt: one of the whole batch, which is not among `asks`, cannot be approved, or, if `takes_most`, was decided
    before.
    """

    actor: Actor
    asks: tuple[Ask, ...]
    is_atomic: bool
    is_spoilt: bool = False
    takes_most: bool = False

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return tuple(dict.fromkeys(dataset_id for ask in self.asks for dataset_id in ask.dataset_ids))


@dataclass(frozen=True, slots=True)
class _OnRun:
    """A command about an approved run. `charges` are its accounts, by dataset, as its approval recorded them."""

    actor: Actor
    run_id: UUID
    charges: Mapping[UUID, tuple[AccountKey, ...]]

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return tuple(self.charges)


@dataclass(frozen=True, slots=True)
class Start(_OnRun):
    """A held run now touches the data. begin_within_us: how long a job may begin with the start's receipt.

    token_sha256: of the token of the process that starts it, in hexadecimal; None if it has none.
    """

    begin_within_us: int = BEGIN_WITHIN_US
    token_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """A steward's ruling on a number that no budget could cover: it is right, or another number is."""

    says: Literal["confirmed", "corrected"]
    reason: str
    consent: Consent


@dataclass(frozen=True, slots=True)
class Settle(_OnRun):
    """A started run has ended. `body` is what was sent; `steps` and `stop` record how far it came.

    charged: for the executed part of the plan; never more than was approved. costing: how that was computed, from which
    restarts, and what the run produced, for the record. ruling: from a steward, who settles a run whose number was
    reported; None if the run's own principal settles it. places: the number of the entry that approved it, by dataset,
    if it was not approved in these books.
    """

    body: Mapping[str, Any]
    steps: int | None
    stop: str
    charged: Amount
    excess: Excess | None = None
    costing: Mapping[str, Any] = field(default_factory=dict)
    ruling: Ruling | None = None
    places: Mapping[UUID, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Void(_OnRun):
    """Nobody saw any output of a run. `body` states why.

    is_independent: the principal states that neither the data nor any output decided this.
    """

    body: Mapping[str, Any]
    consent: Consent
    is_independent: bool = False


class Known(NamedTuple):
    """What a settled run was charged until now, by its entries.

    charged: all of it, earlier corrections counted. r: the most that one of its charges left unspent: mu², in units of
    1e-12. corrections: how many there were.
    """

    charged: Amount
    r: int
    corrections: int


@dataclass(frozen=True, slots=True)
class Correct(_OnRun):
    """A steward states which mechanism a settled run really was. `body` is what was sent.

    known: what the run was charged when its true cost was computed. cost, residual, costing: of the true mechanism, as
    for `Ask`. replaces: it is stated that no output decided which mechanism ran, so the true one takes the place of the
    one that was declared; otherwise it is charged in addition. places: the number of the entry that decided the run, by
    dataset.
    """

    body: Mapping[str, Any]
    known: Known
    cost: Amount
    costing: Mapping[str, Any]
    replaces: bool
    consent: Consent
    places: Mapping[UUID, int]
    residual: Residual | None = None


@dataclass(frozen=True, slots=True)
class RefuseProposal:
    """A second steward refuses."""

    actor: Actor
    proposal_id: UUID
    dataset_ids: tuple[UUID, ...]
    reason: str


OnRun = Start | Settle | Void | Correct
OnDataset = Change | SetBudget | AddPartitions | SetProject | SetFairUse
"""A steward's command about a dataset, which may need a second steward."""
Single = Register | OnDataset | Ask | OnRun | RefuseProposal
Command = Single | Batch


def caller_of(command: Command) -> Actor:
    """Return who makes the call: for a run that waited, the steward who approves it."""
    return command.second.actor if isinstance(command, Ask) and command.second is not None else command.actor
