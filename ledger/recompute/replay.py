"""The balances with recomputed costs, and where they exceed a limit.

The sums are those of the journal (docs/reference/export.md) with other addends: a run holds its cost from its approval,
returns it when it is settled or voided, and spends what it is charged. The limits are those in the entries. Nothing is
decided again: an approved run stays approved, because it was executed.

The accounts of principals are left out: fair use limits what a principal holds, and guarantees nothing about the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ledger.core.amounts import ZERO, Amount, Quantity
from ledger.core.datasets import AccountKey


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an account.

    limit: at the end. recorded_spent, recorded_held: from the journal. spent, held: recomputed. over_by: the excess
    over the limit at the end; 0 if none. most_over: the largest excess. first_over: the first entry with an excess;
    None if never. recorded_over: the same with the recorded amounts; only an overrun can cause it.
    """

    key: AccountKey
    limit: Amount
    recorded_spent: Amount
    recorded_held: Amount
    spent: Amount
    held: Amount
    over_by: Amount
    most_over: Amount
    first_over: int | None
    recorded_over: int | None

    @property
    def is_over(self) -> list[Quantity]:
        """Return the quantities that exceed the limit at the end."""
        return self.over_by.exceeds(ZERO)


@dataclass(slots=True)
class _Account:
    limit: Amount
    recorded_spent: Amount = ZERO
    recorded_held: Amount = ZERO
    spent: Amount = ZERO
    held: Amount = ZERO
    most_over: Amount = ZERO
    first_over: int | None = None
    recorded_over: int | None = None

    def look(self, seq: int) -> None:
        """Note whether the account exceeds its limit after this entry."""
        over = _over(self.spent + self.held, self.limit)
        self.most_over = self.most_over.most(over)
        if self.first_over is None and over != ZERO:
            self.first_over = seq
        if self.recorded_over is None and _over(self.recorded_spent + self.recorded_held, self.limit) != ZERO:
            self.recorded_over = seq


def _over(needed: Amount, limit: Amount) -> Amount:
    return (needed - limit).most(ZERO)


class Replay:
    """The sums of one journal."""

    def __init__(self) -> None:
        self._accounts: dict[AccountKey, _Account] = {}

    def limits(self, seq: int, limits: Iterable[tuple[AccountKey, Amount]]) -> None:
        """Set the limits of accounts from an entry."""
        for key, limit in limits:
            if key.principal_id is not None:
                continue
            account = self._accounts.setdefault(key, _Account(limit))
            if account.limit != limit:
                account.limit = limit
                account.look(seq)

    def move(
        self,
        seq: int,
        keys: Iterable[AccountKey],
        *,
        held: tuple[Amount, Amount],
        spent: tuple[Amount, Amount] = (ZERO, ZERO),
    ) -> None:
        """Add to what is held and spent, recorded and recomputed."""
        for key in keys:
            account = self._accounts.get(key)
            if account is None:
                continue
            account.recorded_held, account.held = account.recorded_held + held[0], account.held + held[1]
            account.recorded_spent, account.spent = account.recorded_spent + spent[0], account.spent + spent[1]
            account.look(seq)

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return every account, by name."""
        outcomes = []
        for key, account in sorted(self._accounts.items(), key=lambda item: _order(item[0])):
            over = _over(account.spent + account.held, account.limit)
            outcomes.append(
                Outcome(
                    key,
                    account.limit,
                    account.recorded_spent,
                    account.recorded_held,
                    account.spent,
                    account.held,
                    over,
                    account.most_over,
                    account.first_over,
                    account.recorded_over,
                )
            )
        return tuple(outcomes)


def _order(key: AccountKey) -> tuple[str, str]:
    return (key.project or "", key.partition or "")
