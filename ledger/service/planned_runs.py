"""What would happen if several runs were asked for now, one after another. Nothing is recorded.

The same decision as for a batch is made on a copy of the books, so a plan and an approval differ only by what others
ask for meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from pydantic import ConfigDict, Field

from ledger.accounting.display import show_amount
from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import Ask, Batch
from ledger.core.datasets import Account
from ledger.core.decision.group import Batched, Outcome, Unrecorded, decide, read_sets
from ledger.core.people import Actor
from ledger.errors import LedgerError
from ledger.recovery.known import Known
from ledger.service.asked import Item
from ledger.service.asking import Asking
from ledger.service.requests.fields import Strict
from ledger.service.requests.runs import RunRequest
from ledger.service.shapes.accountant import PlannedRun, PlannedRuns, PlannedTogether
from ledger.store import Store

RUNS_MAX: Final = 1_000
"""The most runs of one plan."""


class PlanRuns(Strict):
    """Runs that might be asked for, in this order."""

    runs: Annotated[list[RunRequest], Field(min_length=1, max_length=RUNS_MAX)]
    as_many_as_fit: Annotated[
        bool, Field(description="Plan them as a batch of which as many are approved as fit together.")
    ] = False

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "runs": [
                    {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}},
                    {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 10}},
                ]
            }
        },
    )


class RunsPlanner:
    """Plans several runs at once. Its coroutines belong to one event loop."""

    def __init__(self, store: Store, asking: Asking, *, known: Known) -> None:
        self._store, self._asking, self._known = store, asking, known

    async def plan(self, actor: Actor, request: PlanRuns, bodies: Sequence[Mapping[str, Any]]) -> PlannedRuns:
        """Return which of these runs would fit, asked for one after another, and what would be left of each dataset.

        bodies: the runs as they were sent. Raises TooLarge if their costs together take too much work.
        """
        items = [Item(str(uuid4()), run, body) for run, body in zip(request.runs, bodies, strict=True)]
        commands = [self._decidable(actor, command) for command in await self._asking.commands_of(actor, items)]
        return await asyncio.to_thread(self._plan, actor, commands, takes_most=request.as_many_as_fit)

    def _decidable(self, actor: Actor, command: Ask | LedgerError) -> Ask | LedgerError:
        if isinstance(command, LedgerError):
            return command
        return self._known.refusal_on(actor.tenant_id, command.dataset_ids) or command

    def _plan(self, actor: Actor, commands: Sequence[Ask | LedgerError], *, takes_most: bool) -> PlannedRuns:
        asks = [command for command in commands if isinstance(command, Ask)]
        with self._store.reading(actor.tenant_id) as reading:
            books = reading.books.read(read_sets(asks))
            now_us = reading.now_us()
        after, decided = _decided(books, actor, commands, now_us, takes_most=takes_most)
        runs = [_run(next(decided) if isinstance(command, Ask) else command) for command in commands]
        return PlannedRuns(
            runs=runs,
            fitting=sum(run["fits"] for run in runs),
            order=None if takes_most else _better_order(books, commands, runs, now_us),
            datasets=[together_of(actor, books, after, id_) for id_ in _dataset_ids(asks)],
        )


def _decided(
    books: Books, actor: Actor, commands: Sequence[Ask | LedgerError], now_us: int, *, takes_most: bool
) -> tuple[Books, Iterator[Outcome | Unrecorded]]:
    """Return the books after these runs, and the outcome of each that can be asked for."""
    asks = tuple(command for command in commands if isinstance(command, Ask))
    if not takes_most:
        after, outcomes = decide(books, asks, now_us=now_us)
        return after, iter(outcomes)
    batch = Batch(actor, asks, is_atomic=False, is_spoilt=len(asks) < len(commands), takes_most=True)
    after, (outcome,) = decide(books, [batch], now_us=now_us)
    return after, iter(outcome.outcomes if isinstance(outcome, Batched) else [])


def _dataset_ids(asks: Sequence[Ask]) -> list[UUID]:
    return list(dict.fromkeys(dataset_id for ask in asks for dataset_id in ask.dataset_ids))


def _run(outcome: Outcome | Unrecorded) -> PlannedRun:
    """Return what would become of one run."""
    if isinstance(outcome, LedgerError):
        return PlannedRun(fits=False, waits=False, cost=None, code=outcome.code, detail=outcome.detail)
    if isinstance(outcome, Unrecorded):
        outcome = outcome.drafts
    drafts = outcome if isinstance(outcome, tuple) else ()
    kind, facts = drafts[0].kind, drafts[0].facts
    if kind == "change-proposed":
        waiting = show_amount(Amount.from_facts(facts["proposes"]["cost"]))
        return PlannedRun(fits=True, waits=True, cost=waiting, code="run-waits", detail=None)
    fits, cost = kind == "run-approved", show_amount(Amount.from_facts(facts["cost"]))
    return PlannedRun(fits=fits, waits=False, cost=cost, code=None if fits else "budget-exceeded", detail=None)


def _better_order(
    books: Books, commands: Sequence[Ask | LedgerError], runs: Sequence[PlannedRun], now_us: int
) -> list[int] | None:
    """Return an order in which more of the runs fit, the cheapest first; None if that is not so."""
    if all(run["fits"] for run in runs):
        return None
    asks = [(index, command) for index, command in enumerate(commands) if isinstance(command, Ask)]
    cheapest = sorted(asks, key=lambda pair: (pair[1].cost.mu_sq_pico, pair[1].cost.delta_atto, pair[0]))
    _, outcomes = decide(books, [command for _, command in cheapest], now_us=now_us)
    fitting = [index for (index, _), outcome in zip(cheapest, outcomes, strict=True) if _run(outcome)["fits"]]
    return fitting if len(fitting) > sum(run["fits"] for run in runs) else None


def together_of(actor: Actor, before: Books, after: Books, dataset_id: UUID) -> PlannedTogether:
    """Return what is left of a dataset before and after the runs that fit: the least of the accounts that they charge;
    nothing for a dataset that the caller does not see."""
    name = before.datasets[dataset_id].definition.name
    keys = [key for key in after.accounts if key.dataset_id == dataset_id and key.principal_id is None]
    if not keys or not actor.sees(name):
        return PlannedTogether(name=name, remaining=None, after=None, percent_left=None)
    left = [after.accounts[key] for key in keys]
    percent_left = min(map(_percent_left, left))
    was = [before.accounts[key] for key in keys if key in before.accounts] or left
    return PlannedTogether(
        name=name,
        remaining=show_amount(reduce(Amount.least, (account.remaining for account in was))),
        after=show_amount(reduce(Amount.least, (account.remaining for account in left))),
        percent_left=percent_left,
    )


def _percent_left(account: Account) -> float:
    """Return what is left of a limit in mu², which adds up, in percent, rounded down to a hundredth."""
    limit = account.limit.mu_sq_pico
    return (10_000 * max(account.remaining.mu_sq_pico, 0) // limit) / 100 if limit else 0.0
