"""What can go wrong, as codes and facts. HTTP statuses stand in `ledger.api.problems`.

    LedgerError
    ├── Unauthenticated
    ├── Forbidden
    ├── NotFound
    ├── InvalidRequest
    │   ├── InvalidMechanism
    │   ├── InvalidJson
    │   ├── IdempotencyKeyMissing
    │   └── IdempotencyKeyReused
    ├── Conflict
    │   ├── BudgetExceeded
    │   ├── BudgetBelowSpent
    │   ├── DatasetFrozen
    │   ├── RunState
    │   ├── Overrun
    │   ├── BatchRefused
    │   ├── UnitMismatch
    │   ├── PartitionsClosed
    │   ├── ProposalState
    │   └── NameTaken
    ├── TooLarge
    ├── Overloaded
    │   └── RateLimited
    ├── JournalBroken
    ├── Misconfigured
    │   └── DatabaseUnusable
    └── Internal

An exception's docstring is its message; what it is about travels as `facts`, never only in prose.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, ClassVar, Final

UNKNOWN_KEY: Final = "That key is unknown, was revoked or has expired."
"""What is said of every key and token that is not good, whatever is wrong: a stranger learns nothing from it."""


class LedgerError(Exception):
    """The ledger could not do what was asked."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str | None = None, **facts: Any) -> None:
        self.detail = detail if detail is not None else str(inspect.getdoc(type(self)))
        self.facts = facts
        super().__init__(self.detail)


class Unauthenticated(LedgerError):
    """A valid key is needed: send it as `Authorization: Bearer pbl_…`."""

    code = "unauthenticated"


class Forbidden(LedgerError):
    """This key's role does not allow that."""

    code = "forbidden"


class NotFound(LedgerError):
    """There is no such thing here."""

    code = "not-found"


class InvalidRequest(LedgerError):
    """The request is not valid."""

    code = "invalid-request"

    def __init__(self, detail: str | None = None, *, field: str | None = None, **facts: Any) -> None:
        self.field = field
        super().__init__(detail, **({"field": field} if field is not None else {}), **facts)


class InvalidMechanism(InvalidRequest):
    """The mechanism is not valid."""

    code = "invalid-mechanism"


class InvalidJson(InvalidRequest):
    """The body is not JSON that this ledger reads."""

    code = "invalid-json"


class IdempotencyKeyMissing(InvalidRequest):
    """Send an Idempotency-Key header of 1 to 255 visible ASCII characters, one for each run you mean to ask for."""

    code = "idempotency-key-missing"


class IdempotencyKeyReused(InvalidRequest):
    """This Idempotency-Key already stands for another request."""

    code = "idempotency-key-reused"


class Conflict(LedgerError):
    """The state of things does not allow that."""


class BudgetExceeded(Conflict):
    """The run does not fit in what is left."""

    code = "budget-exceeded"


class BudgetBelowSpent(Conflict):
    """The new limit is below what is spent and held."""

    code = "budget-below-spent"


class DatasetFrozen(Conflict):
    """The dataset is not active: no run can be approved or started on it."""

    code = "dataset-frozen"


class RunState(Conflict):
    """The run's state does not allow that."""

    code = "run-state"


class Overrun(Conflict):
    """More was executed than was approved, and it did not fit. It is charged all the same, and the dataset frozen."""

    code = "overrun"


class BatchRefused(Conflict):
    """Not every run of the batch can be approved, so none was."""

    code = "batch-refused"


class UnitMismatch(Conflict):
    """Datasets that are used together have one privacy unit, one adjacency and one bound."""

    code = "unit-mismatch"


class PartitionsClosed(Conflict):
    """The dataset was registered without partitions, so that new ones would be fresh budget for the same people."""

    code = "partitions-closed"


class ProposalState(Conflict):
    """The proposal is not open any more."""

    code = "proposal-state"


class NameTaken(Conflict):
    """That name is taken."""

    code = "name-taken"


class TooLarge(LedgerError):
    """The request is larger than the ledger accepts."""

    code = "too-large"


class Overloaded(LedgerError):
    """The ledger cannot answer now; nothing is known to have been recorded. Try again with the same Idempotency-Key."""

    code = "overloaded"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int = 1, **facts: Any) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(detail, **facts)


class RateLimited(Overloaded):
    """That was too much in too short a time. Nothing was recorded; try again after `retry_after_seconds`."""

    code = "rate-limited"


class JournalBroken(LedgerError):
    """The journal does not add up."""

    code = "journal-broken"

    def __init__(self, detail: str, *, seq: int, after: int | None = None) -> None:
        """after: up to which entry the journal is known to be as it was, where somebody held something against it."""
        self.seq, self.after, self._bare = seq, after, detail
        super().__init__(f"entry {seq}: {detail}", seq=seq, **({"after": after} if after is not None else {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(JournalBroken, seq=self.seq, after=self.after), (self._bare,)


class Misconfigured(LedgerError):
    """The ledger is not set up so that it can run."""

    code = "misconfigured"


class DatabaseUnusable(Misconfigured):
    """The database cannot be reached, or is not what this version needs."""

    code = "database-unusable"


class Internal(LedgerError):
    """Something went wrong inside the ledger. It was logged; the request can be repeated with the same key."""
