"""Replay of past runs: what was spent before there was a ledger is charged before the first entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey
from ledger.core.journal import beside_left
from ledger.core.journal.chain import Demand
from ledger.core.journal.corrections import CorrectionReplay
from ledger.core.journal.requested import WITHHELD, request_of


class PastReplay(CorrectionReplay):
    """The part of a calculation over one journal that is about past runs."""

    def read_entered(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        request = request_of(entry)
        demand(request is WITHHELD or isinstance(request.get("past"), dict), "enters a run that is not declared past")
        demand((entry["bound"], entry["adjacency"]) == (self.bound, self.adjacency), "has a cost for another dataset")
        keys = [AccountKey(self.dataset_id, scope) for scope in self._scopes(entry, demand) if self.limit is not None]
        accounts, cost = [self.accounts[key] for key in keys], Amount.from_facts(entry["cost"])
        beside = beside_left.Beside(entry.get("residual"), demand)
        self._new_run(entry, "settled", accounts, beside, demand)
        run = self.runs[UUID(entry["run"])]
        run.seq, run.charged = 0, cost
        beside = self._beside_late(entry, accounts, cost, ZERO, run, demand)
        names = entry["frozen"]
        demand(names == sorted(set(names)) and entry["fits"] == (not names), "does not state whether it fits")
        is_priced = beside.table is None or beside.level is not None or bool(names)
        demand(is_priced, "is charged at no level, and fits")
        return self._charged_late(entry, accounts, cost, run, beside, demand)
