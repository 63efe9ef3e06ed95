"""Holding what the ledger answers, writes and signs against what the model expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from tests.model import evidence
from tests.model.model import Account, Answer, Dataset, Key, Model, Person, Proposal, Run
from tests.model.prices import Amount, Json, Plan, both, limit_of, written

WITHOUT_MODEL: Final = frozenset(
    {"at", "start_by", "settle_by", "begin_by", "approve_by", "method", "assumptions", "accountant", "delta"}
    | {"tenant", "dataset_id", "prev"}
)
"""Members of an entry that are times, words, the share of a certificate (which no cost here uses), or places, which
`evidence` checks."""

PARTS: Final = ("limit", "spent", "held", "overdrawn")


def resolved(value: Any) -> Any:
    """What the model expects, as JSON with exact numbers."""
    match value:
        case Run() | Proposal():
            return value.id
        case Person():
            return {"principal": value.id, "name": value.name, "role": value.role}
        case Account():
            return {part: resolved(getattr(value, part)) for part in PARTS}
        case Amount():
            return {"mu_sq_pico": str(value.mu), "delta_atto": str(value.delta)}
        case float():
            return Decimal(str(value))
        case dict():
            return {name: resolved(member) for name, member in value.items()}
        case list() | tuple():
            return [*map(resolved, value)]
        case _:
            return value


# --- how answers show the model --------------------------------------------------------------------------------------


def balance(own: Dataset, keys: Sequence[Key], project: str | None = None) -> Json:
    """Return several accounts of one budget as one: the most of each part, and the least remainder ("Partitions")."""
    new = Account(limit_of(own.budgets[project]))
    accounts = [own.accounts.get(key, new) for key in keys] or [new]
    spent, held = (both(max, *(getattr(each, part) for each in accounts)) for part in ("spent", "held"))
    left = both(min, *(each.remaining for each in accounts))
    return {"limit": new.limit, "spent": spent, "held": held, "remaining": left}


def share(own: Dataset, project: str) -> Json:
    """Return a project's share of a dataset."""
    keys = [(scope, project, None) for scope in own.scopes]
    return {"name": project, "budget": own.budgets[project], "balance": balance(own, keys, project)}


def shown(model: Model, own: Dataset) -> Json:
    """Return a dataset with its partitions and projects."""
    budget, keys = own.budgets.get(None), own.keys()
    body = {"name": own.name, "state": own.state, "seq": len(own.journal), "budget": budget, "ceiling": own.ceiling}
    body |= {"balance": budget and balance(own, keys), "derived_from": [{"name": name} for name in own.parents]}
    body |= {"roots": sorted(name for name in model.reached(own.name) if not model.datasets[name].parents)}
    body |= {"partition_count": len(keys)} if own.is_partitioned else {}
    body |= {"partitions": [{"name": key[0], "balance": balance(own, [key])} for key in sorted(keys) if key[0]]}
    body |= {"projects": [share(own, project) for project in sorted(filter(None, own.budgets))]}
    return {**body, "fair_use": own.fair_use if any(own.fair_use.values()) else None}


def answered(model: Model, answer: Answer) -> Json:
    """Return the body of an answer: what it states itself, and how it shows a dataset, a run or a proposal."""
    on = answer.on
    match on:
        case Dataset() if "project" in answer.body:
            return {"dataset": on.name, **share(on, answer.body["project"])}
        case Dataset() if "names" in answer.body:
            names = answer.body["names"]
            return {"items": [{"name": name, "balance": balance(on, [(name, None, None)])} for name in names]}
        case Dataset():
            return shown(model, on)
        case Proposal():
            run = on.on if isinstance(on.on, Run) else None
            body = {"id": on, "what": on.what, "dataset": on.datasets[0], "proposes": on.proposes}
            return {"proposal": {**body, "state": on.state, "run": run}}
        case Run() if answer.entries:
            return {"id": on, "state": on.state, "cost": on.plan.cost, **answer.body, "datasets": left(on, answer)}
        case _:
            return answer.body


def left(run: Run, answer: Answer) -> list[Json]:
    """Return what remains, after these entries, of all that a run charges in each dataset."""
    rows = [{"name": entry["dataset"], "seq": entry["seq"], "remaining": None} for entry in answer.entries]
    for row, entry in zip(rows, answer.entries, strict=True):
        if accounts := [entry["accounts"][key] for key in run.charges[row["name"]]]:
            row["remaining"] = both(min, *(account.remaining for account in accounts))
    return rows


def permitted(run: Run, name: str) -> Json:
    """Return the partitions charged in a dataset or, if it has none, in all that was reached by the same name."""
    charged = {other: {key[0] for key in keys} - {None} for other, keys in run.charges.items()}
    reached = [parts for other, parts in charged.items() if parts and {*run.via[other]} & {*run.via[name]}]
    reached = [charged[name]] if charged[name] else reached
    return {"partitions": sorted(set.intersection(*reached))} if reached else {}


def receipt(run: Run, state: str) -> Json:
    """Return what a receipt has (receipts.md), beside tenant, digest and entries."""
    body = {"v": 2, "type": "receipt", "run": run, "state": state, "decision": "approved", "cost": run.plan.cost}
    project = {"project": run.body["project"]} if "project" in run.body else {}
    return {**body, **project, "datasets": [{"name": name, **permitted(run, name)} for name in run.charges]}


def receipt_state(run: Run) -> str | None:
    """Return which receipt a run has: of its start, or before that of its approval; none if refused or ended."""
    return run.state if run.state in ("held", "started") and not run.waits else None


# --- holding one against the other -----------------------------------------------------------------------------------


def demand_within(expected: Any, actual: Any, where: str = "") -> None:
    """Everything that the model expects is there, and says the same. There may be more."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict), (where, expected, actual)
        for name, member in expected.items():
            assert name in actual, f"{where}.{name} is missing"
            demand_within(member, actual[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert isinstance(actual, list), (where, expected, actual)
        assert len(expected) == len(actual), (where, expected, actual)
        for number, (mine, theirs) in enumerate(zip(expected, actual, strict=True)):
            demand_within(mine, theirs, f"{where}[{number}]")
    else:
        assert expected == actual, f"{where}: {actual!r} and not {expected!r}"


def comparable(entry: Json) -> Json:
    """An entry of a journal as the model writes one."""
    kept = {name: member for name, member in entry.items() if name not in WITHOUT_MODEL}
    groups = [*kept.pop("accounts", []), *([kept.pop("balance")] if "balance" in kept else [])]
    accounts: dict[Key, Json] = {}
    for group in groups:
        for partition in group.get("partitions", [None]):
            key = (partition, group.get("project"), group.get("principal"))
            assert key not in accounts, "an account stands in two groups"
            accounts[key] = {part: group[part] for part in PARTS}
    kept["accounts"] = accounts
    kept["actor"] = _without(kept["actor"], "key")
    if "derived_from" in kept:
        kept["derived_from"] = [_without(parent, "id") for parent in kept["derived_from"]]
    if isinstance(proposal := kept.get("proposal"), dict):
        kept["proposal"] = {"id": proposal["id"], "by": _without(proposal["by"], "key")}
    if "overrun" in kept:
        names = {"steps", "repeated", "cost", "fits", "frozen", "beyond_limits"}
        kept["overrun"] = {name: member for name, member in kept["overrun"].items() if name in names}
    return kept


def _without(value: Json, name: str) -> Json:
    return {other: member for other, member in value.items() if other != name}


def plain(quantity: str, units: int) -> float:
    """mu or delta of an exact integer, as an answer shows it."""
    return math.sqrt(max(units, 0)) / 1e6 if quantity == "mu" else -math.expm1(-max(units, 0) / 1e18)


def parts_of(answer: Json) -> Json:
    """A dataset without partitions shows null; the model shows none."""
    return {"partitions": answer["partitions"] or []} if "partitions" in answer else {}


def difference(actual: Json, expected: Json) -> str:
    """In what an entry differs from the model's."""
    names = [name for name in sorted({*actual, *expected}) if actual.get(name) != expected.get(name)]
    lines = [f"  {name}: {actual.get(name)}\n    and not {expected.get(name)}" for name in names]
    return "\n".join([f"entry {expected['seq']} of {expected['dataset']}, {expected['kind']}:", *lines])


def check_fits(run: Run, left: Amount, fits: Json) -> None:
    """Each value that is offered fits what is left, and the next one does not; to the last step, or to six digits."""
    mechanism = run.body["mechanism"]
    if mechanism["type"] in ("pure_dp", "approximate_dp", "gdp", "composed"):
        return

    def does_fit(name: str, value: Fraction) -> bool:
        return not Plan({**mechanism, name: value}, run.adjacency, run.plan.segments).cost.exceeds(left)

    for name, value in fits.items():
        digit = Fraction(10) ** (math.floor(math.log10(value)) - 5) if name in ("noise_multiplier", "epochs") else 1
        assert does_fit(name, written(value)), (name, value)
        beside = written(value) - digit if name == "noise_multiplier" else written(value) + digit
        assert not does_fit(name, beside), (name, value)
    for name, value in {"noise_multiplier": 10**12, "steps": 1, "count": 1}.items():
        if name in mechanism and name not in fits and run.plan.segments == 1:
            assert not does_fit(name, Fraction(value)), (name, fits)


class Receipts:
    """All receipts that were given out, each held against the journals and the accounts charged."""

    def __init__(self, jwks: Json) -> None:
        self._jwks = jwks
        self.payloads: list[tuple[Run, Json]] = []
        self.permit_more = 0
        """How many permit a partition that nobody charged."""

    def check(self, run: Run, state: str, token: str) -> None:
        """Its signature holds, and it says what was decided."""
        payload = evidence.signed(token, "receipt", self._jwks)
        for on in payload["datasets"]:
            on.update({"partitions": evidence.names(on["partitions"])} if "partitions" in on else {})
        demand_within(resolved(receipt(run, state)), payload)
        digest = evidence.digest(evidence.canonical(resolved(run.body["mechanism"])))
        assert payload["mechanism"] == {"type": run.body["mechanism"]["type"], "digest": digest}
        self.payloads.append((run, payload))

    def check_entries(self, journals: dict[str, evidence.Journal], partitions: dict[str, set[str]]) -> None:
        """Each names its entries, and permits what the entries of the approval charged."""
        self.permit_more = 0
        for run, payload in self.payloads:
            kind, until = {"held": ("run-approved", "start_by"), "started": ("run-started", "settle_by")}[
                payload["state"]
            ]
            is_more = False
            for on in payload["datasets"]:
                journal = journals[on["name"]]
                entry = journal.entries[on["seq"] - 1]
                assert (entry["kind"], entry["run"]) == (kind, run.id)
                assert (journal.hashes[on["seq"] - 1], entry["dataset_id"]) == (on["hash"], on["id"])
                assert (entry["at"], entry[until]) == (payload["at"], payload[until])
                assert entry["at"] < entry["begin_by"] <= payload["begin_by"] <= entry[until]
                assert journal.header["tenant"] == payload["tenant"]
                charged = {key[0] for key in comparable(entry)["accounts"] if key[0] is not None}
                permitted = set(on.get("partitions", partitions[on["name"]] if charged else ()))
                assert charged <= permitted
                assert charged == permitted or not charged
                is_more |= bool(charged) and permitted > charged
            self.permit_more += is_more
