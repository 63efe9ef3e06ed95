"""Replay of corrections: a settled run is charged what the true mechanism costs, and what a run is charged in all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ledger.core.amounts import INT64_MAX, ZERO, Amount
from ledger.core.datasets import Account
from ledger.core.journal import beside_left
from ledger.core.journal.beside_left import Beside
from ledger.core.journal.chain import Demand
from ledger.core.journal.requested import WITHHELD, request_of
from ledger.core.journal.rights import is_steward
from ledger.core.journal.runs import Charged, RunReplay


class CorrectionReplay(RunReplay):
    """The part of a calculation over one journal that is about corrections."""

    def read_corrected(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        run, accounts = self._move_run(entry, ("settled",), "settled", demand)
        demand(entry.get("project") == run.project, "is of another project than its run")
        demand(is_steward(entry["actor"]), "corrects a run, and is not a steward's")
        demand(entry["number"] == run.corrections + 1, "is not the next correction of its run")
        self._demand_request(entry, demand)
        before, cost = Amount.from_facts(entry["before"]), Amount.from_facts(entry["cost"])
        demand(before == run.charged, "corrects another charge than the run has")
        demand(not ZERO.exceeds(cost), "has a negative cost")
        old = before if entry["replaces"] else ZERO
        late = (cost - old).most(ZERO)
        returned = (old - cost).most(ZERO) if late == ZERO else ZERO
        demand(late == Amount.from_facts(entry["late"]), "charges another amount than is missing")
        demand(returned == Amount.from_facts(entry["returned"]), "gives back another amount than was too much")
        run.charged = before + late - returned
        demand(run.charged == Amount.from_facts(entry["charged"]), "has another charge than its parts")
        demand(returned == ZERO or "proposal" in entry, "gives back what a run was charged, by one person")
        self.proposals.note_done(entry, "correction", takes_two=True, demand=demand)
        beside = self._beside_late(entry, accounts, cost, old, run, demand)
        own = beside_left.guaranteed(accounts)
        demand(entry["fits"] == (not entry["frozen"]), "does not state whether the correction fits")
        names = entry["frozen"]
        demand(names == sorted(set(names)), "does not name what was overdrawn in order")
        if late == ZERO:
            demand(not names and "state" not in entry, "is overdrawn by less than before")
            after = [self._lowered(account, returned, run, beside, demand) for account in own]
        else:
            after = self._charged_late(entry, own, late, run, beside, demand)
        run.r, run.corrections = max(run.r, beside.r), run.corrections + 1
        by_key = {account.key: account for account in after}
        return [by_key.get(account.key, account) for account in accounts]

    def _demand_request(self, entry: dict[str, Any], demand: Demand) -> None:
        request = request_of(entry)
        if request is not WITHHELD:
            decided = request["decided_by_output"]
            demand(entry["replaces"] is (not decided), "states wrongly whether an output decided what ran")
            lowers = entry["returned"] != ZERO.facts()
            demand(not lowers or bool(request.get("on_word_of")), "gives back on nobody's word")

    def _beside_late(
        self, entry: dict[str, Any], accounts: list[Account], cost: Amount, old: Amount, run: Charged, demand: Demand
    ) -> Beside:
        """Return the table of the true mechanism. Its level must leave its r, and all behind the run's place, as they
        are, the charge that it replaces counted as left."""
        beside, own = Beside(entry.get("residual"), demand), beside_left.guaranteed(accounts)
        beside.demand_cost(cost)
        demand(beside.table is None or not own or self.costing == "residual", "costs beside what is left, and may not")
        if beside.level is not None:
            demand(all(account.overdrawn == ZERO for account in own), "is charged beside what an overdrawn account has")
            rest = Amount(cost.mu_sq_pico - old.mu_sq_pico, 0)
            enough = all(beside_left.leaves_enough(account, beside, rest, run.seq) for account in own)
            demand(enough, "is charged at a level that does not fit")
        return beside

    def _lowered(self, account: Account, returned: Amount, run: Charged, beside: Beside, demand: Demand) -> Account:
        left = account.remaining.mu_sq_pico
        if returned != ZERO:
            demand(run.r == 0 or left >= run.r, "gives back what a later approval rests on")
            full = INT64_MAX in (account.spent.mu_sq_pico, account.spent.delta_atto)
            demand(not full, "gives back from a balance that states less than was spent")
            account = self._noted(account, left, run.r)
        after = beside_left.eased(replace(account, spent=account.spent - returned))
        return self._noted(after, after.remaining.mu_sq_pico, beside.r)

    def _charged_late(
        self, entry: dict[str, Any], own: list[Account], late: Amount, run: Charged, beside: Beside, demand: Demand
    ) -> list[Account]:
        fitting = {account.key: beside_left.is_late_fit(account, late, run.seq) for account in own}
        is_beyond = not all(fitting.values())
        state = "retired" if self.state == "retired" else "frozen"
        demand(entry.get("state") == (state if is_beyond else None), "is overdrawn but not frozen, or the reverse")
        demand((entry["dataset"] in entry["frozen"]) == is_beyond, "does not name what was overdrawn")
        return [
            beside_left.charged_late(account, beside, late, place=run.seq, seq=self.seq, fits=fitting[account.key])
            for account in own
        ]
