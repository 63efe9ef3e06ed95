"""Attestations: what a settled run produced and what it was charged, as a signed in-toto statement.

All of it is in the journals, except the deltas of `epsilon`, which are those of the budgets now. So the same statement
can be made again at any time, and an auditor finds each of its facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import show_amount, show_epsilons
from ledger.core.amounts import Amount
from ledger.core.datasets import Dataset
from ledger.core.decision.of_run import run_state
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor
from ledger.core.residual import Residual
from ledger.service import answers
from ledger.service.runs import Runs
from ledger.service.shapes.runs import Attestation
from ledger.service.tenants import demand_tenant
from ledger.signer import receipts
from ledger.signer.heads import Heads
from ledger.signer.keyfile import Signer
from ledger.store import Reading, Store

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:privacy-ledger:attestation:1"


class Attestations:
    """Signs statements about settled runs."""

    def __init__(self, *, store: Store, runs: Runs, heads: Heads, signer: Signer) -> None:
        self._store, self._runs, self._heads, self._signer = store, runs, heads, signer

    def of(self, actor: Actor, run_id: UUID) -> Attestation:
        """Return the signed statement about a run. Raises NotFound, RunState if the run is not settled was corrected,
        or was settled without files, and JournalBroken."""
        with self._store.reading(actor.tenant_id) as reading:
            run, entries = self._runs.seen(reading, actor, run_id)
            decisions = answers.decisions_of(entries)
            started, settled = (answers.in_order_of(entries, kind, decisions) for kind in ("started", "settled"))
            if not settled:
                is_past = decisions[0]["kind"] == "run-entered"
                raise run_state(run, _DECLARED if is_past else "Only a settled run has an attestation.")
            if "models" not in settled[0]:
                raise run_state(run, _NO_FILES)
            if run.corrections:
                raise run_state(run, _CORRECTED)
            statement = self._statement(reading, decisions, started, settled)
        return Attestation(**self._signer.sign_statement(chain.canonical(statement)))

    def _statement(
        self, reading: Reading, decisions: Sequence[Record], started: Sequence[Record], settled: Sequence[Record]
    ) -> dict[str, Any]:
        tenant = demand_tenant(reading)
        first, end = decisions[0], settled[0]
        names = [entry["dataset"] for entry in decisions]
        datasets = {found.definition.name: found for found in reading.datasets.by_names(names)}
        receipt = receipts.payload(decisions, started, tenant=tenant.name)
        return {
            "_type": STATEMENT,
            "subject": [
                {"name": model["name"], "digest": {"sha256": model["sha256"]}, "annotations": {"size": model["size"]}}
                for model in end["models"]
            ],
            "predicateType": PREDICATE,
            "predicate": {
                "tenant": {"id": first["tenant"], "name": tenant.name},
                "run": _run(first, started[0], end),
                "mechanism": {**receipt["mechanism"], "parameters": first["request"]["mechanism"]},
                "cost": {"approved": first["cost"], "charged": end["charged"]},
                "guarantee": _guarantee(first, end, list(datasets.values())),
                "datasets": [
                    {
                        **{name: value for name, value in charged.items() if name in ("name", "id", "partitions")},
                        "privacy_unit": datasets[charged["name"]].definition.privacy_unit,
                        "adjacency": decision["adjacency"],
                        "approved": _place(decision),
                        "started": _place(start),
                        "settled": {**_place(entry), "root": self._root(reading, datasets[charged["name"]], entry)},
                    }
                    for charged, decision, start, entry in zip(
                        receipt["datasets"], decisions, started, settled, strict=True
                    )
                ],
                "receipt": {"payload_sha256": chain.digest(chain.canonical(receipt)).hex()},
            },
        }

    def _root(self, reading: Reading, dataset: Dataset, entry: Record) -> str:
        """Return the Merkle root over the journal up to this entry, which the signed head had there."""
        return self._heads.view(reading, dataset).root(entry["seq"]).hex()


_CORRECTED: Final = (
    "It was corrected after it was settled: an attestation would state the mechanism that was declared, and its"
    " guarantee, which are not what it really was."
)
_DECLARED: Final = "It is a past run that a steward entered: the ledger did not observe it, and attests nothing of it."
_NO_FILES: Final = (
    "It was settled without the digests of files, so there is nothing to attest. State them when you settle a run:"
    " privacy-ledger settle RUN --model FILE."
)


def _run(decision: Record, start: Record, end: Record) -> dict[str, Any]:
    """Return what happened to the run."""
    optional = {
        **{name: decision[name] for name in ("project",) if name in decision},
        **{name: end[name] for name in ("restarts", "report") if name in end},
    }
    if "segments" in decision:
        optional["segments"] = decision["segments"]["count"]
    if "overrun" in end:
        optional["overrun"] = {name: end["overrun"][name] for name in ("steps", "fits")}
    return {
        "id": decision["run"],
        "decision": "approved",
        "approved_at": decision["at"],
        "started_at": start["at"],
        "settled_at": end["at"],
        "steps": end["steps"],
        "stop": end["stop"],
        **optional,
    }


def _guarantee(decision: Record, end: Record, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Return what holds for the run by itself, whatever else the datasets were used for."""
    whole = _alone(decision, end)
    shown = show_amount(whole)
    deltas = sorted({delta for found in datasets for delta in report_deltas(dict(found.budget or {}))}, reverse=True)
    epsilons = show_epsilons([(whole, delta) for delta in deltas])
    return {
        "bound": decision["bound"],
        "method": decision["method"],
        "accountant": end["accountant"],
        "assumptions": [*decision["assumptions"], *end.get("assumptions", ())],
        **whole.facts(),
        **{name: Decimal(repr(float(shown[name]))) for name in ("mu", "delta")},
        "epsilon": [
            {"delta": Decimal(repr(delta)), "epsilon": Decimal(repr(float(epsilon)))}
            for delta in deltas
            if (epsilon := epsilons[whole, delta]) is not None
        ],
    }


def _alone(decision: Record, end: Record) -> Amount:
    """Return what the run costs by itself: what it was charged or, if it was costed beside what was left, what all of
    it would have cost alone, with what it executed beyond the plan."""
    if "residual" not in decision:
        return Amount.from_facts(end["charged"])
    planned, overrun = answers.alone(decision), end.get("overrun")
    if overrun is None:
        return planned
    late = Amount.from_facts(overrun["cost"])
    if "residual" in overrun:
        late = Amount(Residual.from_facts(overrun["residual"]).costs[0], late.delta_atto)
    return planned + late


def _place(entry: Record) -> dict[str, Any]:
    return {"seq": entry["seq"], "hash": chain.hash_of(entry)}
