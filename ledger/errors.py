"""What can go wrong, as codes and facts. `ledger.api.problems` has the HTTP statuses.

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
    │   ├── RunWaits
    │   ├── Overrun
    │   ├── BatchRefused
    │   ├── UnitMismatch
    │   ├── PartitionsClosed
    │   ├── ProposalState
    │   ├── JournalContradicted
    │   └── NameTaken
    ├── TooLarge
    ├── Overloaded
    │   └── RateLimited
    ├── JournalBroken
    ├── Misconfigured
    │   └── DatabaseUnusable
    └── Internal

The docstring of an exception is its default message. `facts` has what the error is about, for programs to read.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, ClassVar, Final

UNKNOWN_KEY: Final = "This key or token is unknown, so it opens nothing. Check that you copied all of it."
"""The message for every key that was never made and every token that no trusted issuer signed. It is the same for all
reasons: a stranger learns nothing from it."""


class LedgerError(Exception):
    """The ledger could not do what was asked."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str | None = None, **facts: Any) -> None:
        self.detail = detail if detail is not None else str(inspect.getdoc(type(self)))
        self.facts = facts
        super().__init__(self.detail)


class Unauthenticated(LedgerError):
    """This call needs a valid key: send it as `Authorization: Bearer pbl_…`."""

    code = "unauthenticated"


class Forbidden(LedgerError):
    """The role of this key does not allow this call."""

    code = "forbidden"


class NotFound(LedgerError):
    """No such object exists, or your key may not see it."""

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
    """The request body is not JSON that the ledger accepts."""

    code = "invalid-json"


class IdempotencyKeyMissing(InvalidRequest):
    """Send an Idempotency-Key header of 1 to 255 visible ASCII characters: a new key for each run."""

    code = "idempotency-key-missing"


class IdempotencyKeyReused(InvalidRequest):
    """This Idempotency-Key was used for another request. Use a new key, or repeat exactly the same request."""

    code = "idempotency-key-reused"


class Conflict(LedgerError):
    """The current state does not allow this."""


class BudgetExceeded(Conflict):
    """The run does not fit in the remaining budget. Change it as in `fits`, or ask a steward for more budget."""

    code = "budget-exceeded"


class BudgetBelowSpent(Conflict):
    """The new limit is below what is spent and held. Settle or void runs first, or set a higher limit."""

    code = "budget-below-spent"


class DatasetFrozen(Conflict):
    """The dataset is not active, so no run can be approved or started on it."""

    code = "dataset-frozen"


class RunState(Conflict):
    """The state of the run does not allow this."""

    code = "run-state"


class RunWaits(Conflict):
    """The run waits for a steward, and holds nothing until one approves it. Then repeat the request."""

    code = "run-waits"


class Overrun(Conflict):
    """More was executed than was approved, and it did not fit. It is charged, and the dataset is frozen."""

    code = "overrun"


class BatchRefused(Conflict):
    """Not every run of the batch can be approved, so none was."""

    code = "batch-refused"


class UnitMismatch(Conflict):
    """Datasets that are used together must have the same privacy unit, adjacency and bound."""

    code = "unit-mismatch"


class PartitionsClosed(Conflict):
    """This dataset was registered without partitions; new ones would be fresh budget for the same people."""

    code = "partitions-closed"


class ProposalState(Conflict):
    """The proposal is not open any more. To make the change, propose it again."""

    code = "proposal-state"


class JournalContradicted(Conflict):
    """The database lost entries of this journal, or has others. Nothing is decided on it until a steward has put them
    back or written them off."""

    code = "journal-contradicted"


class NameTaken(Conflict):
    """This name is already in use. Choose another name."""

    code = "name-taken"


class TooLarge(LedgerError):
    """The request is larger than the ledger accepts."""

    code = "too-large"


class Overloaded(LedgerError):
    """The ledger cannot answer now. It may have recorded the request: repeat it with the same Idempotency-Key."""

    code = "overloaded"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int = 1, **facts: Any) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(detail, **facts)


class RateLimited(Overloaded):
    """Too many requests in too short a time. Nothing was recorded. Try again after `retry_after_seconds`."""

    code = "rate-limited"


class JournalBroken(LedgerError):
    """The journal is not consistent."""

    code = "journal-broken"

    def __init__(self, detail: str, *, seq: int, after: int | None = None) -> None:
        """after: the last entry up to which the journal is known to be unchanged, if it was compared with another
        record."""
        self.seq, self.after, self._bare = seq, after, detail
        super().__init__(f"entry {seq}: {detail}", seq=seq, **({"after": after} if after is not None else {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(JournalBroken, seq=self.seq, after=self.after), (self._bare,)


class Misconfigured(LedgerError):
    """The ledger's configuration is not valid."""

    code = "misconfigured"


class DatabaseUnusable(Misconfigured):
    """The database cannot be reached, or does not have the schema that this version needs."""

    code = "database-unusable"


class Internal(LedgerError):
    """Something failed inside the ledger, and was logged. Repeat the request with the same Idempotency-Key."""
