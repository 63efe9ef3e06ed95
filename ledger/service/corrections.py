"""Corrections: what a settled run really was, from the request to the command, and how answers show it.

A correction is charged at the run's own share of delta: a share that is chosen when it is recorded could be chosen by
what the run released. A run that used none has the share that its datasets fixed when they were registered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from ledger.accounting import costs
from ledger.accounting.display import show_amount
from ledger.accounting.mechanisms import AnyMechanism
from ledger.core.amounts import ZERO, Amount
from ledger.core.commands import Correct, Known
from ledger.core.decision.of_run import run_state
from ledger.core.decision.past import PLACE
from ledger.core.decision.posting import Repeat
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor, Consent
from ledger.core.residual import Residual
from ledger.core.runs import Run
from ledger.errors import InvalidMechanism
from ledger.service import answers, portions, sizes
from ledger.service.catalogue import Catalogue, Resolved
from ledger.service.certificates import share_of
from ledger.service.costing import Costed, Costing
from ledger.service.endings import overdrawn_in
from ledger.service.requests.runs import CorrectionRequest, DatasetUse
from ledger.service.shapes.runs import RunCorrected
from ledger.service.two_people import Outcome, proposed, proposed_before
from ledger.service.writer import Writer
from ledger.signer.receipts import ParsedEntry
from ledger.store import Store

_RECORDED: Final = ("number", "replaces", "fits", "frozen", "method", "assumptions", "delta", "at")


@dataclass(frozen=True, slots=True)
class _Stated:
    """What a cost is worked out for. delta: None if the cost needs no share of it."""

    mechanism: AnyMechanism
    delta: Decimal | None
    project: str | None
    segments: int | None = None
    size_differs: str | None = "a steward states what was run"


def known_of(entries: Iterable[Record], corrections: int) -> Known:
    """Return what a settled run is charged by its entries. They are never changed, so what was read stays true as long
    as there are no more corrections."""
    charged, r = ZERO, 0
    for entry in entries:
        if entry["kind"] in ("run-settled", "run-corrected"):
            charged = Amount.from_facts(entry["charged"])
        if entry["kind"] == "run-entered":
            charged = Amount.from_facts(entry["cost"])
        if entry["kind"] in ("run-approved", "run-settled", "run-corrected", "run-entered"):
            tables = (entry.get("residual"), entry.get("overrun", {}).get("residual"))
            r = max([r, *(_r_of(facts) for facts in tables if facts is not None)])
    return Known(charged, r, corrections)


def _r_of(facts: Mapping[str, Any]) -> int:
    return Residual.from_facts(facts).level(facts["level"]) if facts.get("level") else 0


def newest_of(entries: Iterable[Record]) -> list[Record]:
    """Return the newest correction of a run, with an entry for each dataset; none if there was none."""
    made = [entry for entry in entries if entry["kind"] == "run-corrected"]
    newest = max((entry["number"] for entry in made), default=0)
    return [entry for entry in made if entry["number"] == newest]


def _is_of(corrected: Sequence[Record], body: Mapping[str, Any]) -> bool:
    """Return whether a correction was asked for with this body."""
    return next((entry["request"] for entry in corrected if "request" in entry), None) == body


class Corrections:
    """Corrects settled runs. Its coroutines belong to one event loop."""

    def __init__(self, store: Store, writer: Writer, catalogue: Catalogue, costing: Costing) -> None:
        self._store, self._writer, self._catalogue, self._costing = store, writer, catalogue, costing

    async def correct(
        self,
        actor: Actor,
        run: Run,
        entries: Sequence[Record],
        *,
        request: CorrectionRequest,
        body: Mapping[str, Any],
        consent: Consent,
    ) -> Outcome[RunCorrected]:
        """Correct a run, or propose that. The same body again gets the same answer. entries: all of the run."""
        decisions, newest = answers.decisions_of(entries), newest_of(entries)
        if newest and not consent.is_second and _is_of(newest, body):
            return Outcome(shown(answers.as_decided(newest, decisions)), is_done=True)
        command = await self.command(actor, run, entries, request=request, body=body, consent=consent)
        result = await self._writer.decide(actor.tenant_id, command)
        if isinstance(result, Repeat):
            if result.proposal is None:
                raise ArithmeticError("a correction repeats nothing but a proposal")
            names = {UUID(entry["dataset_id"]): entry["dataset"] for entry in decisions}
            return Outcome(proposed_before(result.proposal, names[result.proposal.dataset_id]), is_done=False)
        made = answers.as_decided([ParsedEntry.parse(entry) for entry in result], decisions)
        if made[0]["kind"] == "change-proposed":
            return Outcome(proposed(made[0]), is_done=False)
        return Outcome(shown(made), is_done=True)

    async def command(
        self,
        actor: Actor,
        run: Run,
        entries: Sequence[Record],
        *,
        request: CorrectionRequest,
        body: Mapping[str, Any],
        consent: Consent,
    ) -> Correct:
        """Return the command that corrects a run. Raises RunState if it is not settled, and InvalidMechanism."""
        if run.state != "settled":
            raise run_state(run, "Only a settled run is corrected.")
        decisions = answers.decisions_of(entries)
        costed = await self._costed(actor, decisions, request.mechanism)
        facts = costed.facts()
        names = ("method", "assumptions", "accountant", "delta")
        return Correct(
            actor,
            run.id,
            {UUID(entry["dataset_id"]): tuple(chain.accounts_of(entry)) for entry in decisions},
            body=body,
            known=known_of(entries, run.corrections),
            cost=costed.cost.amount,
            costing={name: facts[name] for name in names if name in facts},
            replaces=not request.decided_by_output,
            consent=consent,
            places={UUID(entry["dataset_id"]): _place_of(entry) for entry in decisions},
            residual=costed.table,
        )

    async def _costed(self, actor: Actor, decisions: Sequence[Record], mechanism: AnyMechanism) -> Costed:
        decision = next(entry for entry in decisions if "request" in entry)
        uses = [DatasetUse.model_validate(_named(use)) for use in decision["request"]["datasets"]]
        resolved = await asyncio.to_thread(self._catalogue.resolve_now, actor, uses)
        delta = decision.get("delta")
        if delta is None and costs.needs_certificate(mechanism, bound=resolved.bound):
            delta = await asyncio.to_thread(fixed_share, self._store, actor.tenant_id, resolved)
        if mechanism.lacks_size:
            written = mechanism.model_dump(mode="json", exclude_none=True)
            mechanism, _ = await asyncio.to_thread(partial(sizes.completed, mechanism, written, resolved))
        stated = _Stated(mechanism, None if delta is None else Decimal(delta), decision.get("project"))
        return await self._costing.cost(actor, resolved, stated)


def fixed_share(store: Store, tenant_id: UUID, resolved: Resolved) -> Decimal:
    """Return the share of delta that datasets fixed when they were registered: a hundredth of their least limit of
    delta then. Raises InvalidMechanism if none of them had a limit."""
    with store.reading(tenant_id) as reading:
        entries = [reading.journals.at(use.dataset_id, 1) for use in resolved.uses]
    registered = [chain.parse(entry.body) for entry in entries if entry is not None]
    limits = [Amount.from_facts(entry["limit"]) for entry in registered if entry["limit"] is not None]
    if not limits:
        raise InvalidMechanism(
            "mechanism: its cost needs a share of delta, and neither the run nor its datasets fixed one. State the"
            ' run as {"type":"gdp","mu":…,"delta":…,"evidence":…}',
            field="mechanism",
        )
    return share_of(Amount(0, min(limit.delta_atto for limit in limits)))


def _place_of(decision: Record) -> int:
    """Return the place of a run in the journal that decided it; a past run has the one before all entries."""
    return PLACE if decision["kind"] == "run-entered" else int(decision["seq"])


def _named(use: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": use} if isinstance(use, str) else use


def shown(entries: Sequence[Record]) -> RunCorrected:
    """Return the answer to a correction, from its entries."""
    first = entries[0]
    rooms = [portions.rooms_in(entry) for entry in entries]
    shown: dict[str, Any] = {
        **{name: first[name] for name in _RECORDED if name in first},
        **{part: show_amount(Amount.from_facts(first[part])) for part in answers.OF_CORRECTION},
        "id": first["run"],
        "state": "settled",
        "overdrawn": [each for entry in entries for each in overdrawn_in(entry)],
        "datasets": answers.on_datasets(entries, rooms, None),
    }
    return cast("RunCorrected", shown)
