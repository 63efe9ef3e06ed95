"""The balances as they would have been had every run cost what it should have, and where they pass a limit.

The sums are those of the journal (docs/reference/export.md), with other addends: a run holds its cost from its
approval, gives it back when it is settled or voided, and is spent with what it is charged. Limits are those that the
entries say. Nothing is decided again: what was approved stays approved, since it was done.

A principal's account is left out: fair use limits what somebody holds, and is no guarantee about the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ledger.core.amounts import ZERO, Amount, Quantity
from ledger.core.datasets import AccountKey


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an account.

    limit: at the end. recorded_spent, recorded_held: what the journal says. spent, held: what it should have been.
    over_by: by how much that passes the limit at the end, 0 where it does not. most_over: at the worst. first_over: the
    entry from which on it was over the first time, None where never. recorded_over: the same by the recorded amounts,
    which only an overrun can have brought about.
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
        """The quantities in which it is over at the end."""
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
        """Notes whether the account is over after this entry."""
        over = _over(self.spent + self.held, self.limit)
        self.most_over = self.most_over.most(over)
        if self.first_over is None and over != ZERO:
            self.first_over = seq
        if self.recorded_over is None and _over(self.recorded_spent + self.recorded_held, self.limit) != ZERO:
            self.recorded_over = seq


def _over(needed: Amount, limit: Amount) -> Amount:
    return (needed - limit).most(ZERO)


class Replay:
    """Sums of one journal."""

    def __init__(self) -> None:
        self._accounts: dict[AccountKey, _Account] = {}

    def limits(self, seq: int, limits: Iterable[tuple[AccountKey, Amount]]) -> None:
        """What an entry says the limits of accounts are."""
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
        """What is held and spent grows by this, each as it was recorded and as it should have been."""
        for key in keys:
            account = self._accounts.get(key)
            if account is None:
                continue
            account.recorded_held, account.held = account.recorded_held + held[0], account.held + held[1]
            account.recorded_spent, account.spent = account.recorded_spent + spent[0], account.spent + spent[1]
            account.look(seq)

    def outcomes(self) -> tuple[Outcome, ...]:
        """Every account, in the order of its name."""
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
