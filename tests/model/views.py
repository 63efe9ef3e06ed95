"""How what the model keeps is answered, and what a receipt says of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from tests.model.books import Balance, Dataset, Key, Run
from tests.model.prices import Amount, Json, limit_of

Datasets = Mapping[str, Dataset]


def ancestry(datasets: Datasets, name: str) -> list[str]:
    """A dataset and all that it is derived from."""
    reached = [name]
    for other in reached:
        reached.extend(parent for parent in datasets[other].parents if parent not in reached)
    return reached


def roots(datasets: Datasets, name: str) -> list[str]:
    """What a dataset is derived from in the end, or itself."""
    return sorted(other for other in ancestry(datasets, name) if not datasets[other].parents)


def dataset(datasets: Datasets, name: str) -> Json:
    """A dataset with its partitions and projects."""
    own = datasets[name]
    body = {"name": name, "state": own.state, "seq": len(own.journal), "budget": own.budget}
    body |= {"balance": own.budget and fullest(own, own.base, own.budget), "roots": roots(datasets, name)}
    body |= {"ceiling": own.ceiling and own.ceiling.json(), "derived_from": [{"name": name} for name in own.parents]}
    body |= {"partition_count": len(own.base)} if own.is_partitioned else {}
    body["projects"] = [share(own, project) for project in sorted(own.projects)]
    body["partitions"] = [
        {"name": key[0], "balance": fullest(own, [key], own.budget or {})} for key in sorted(own.base) if key[0]
    ]
    return {**body, "fair_use": own.fair_use if any(own.fair_use.values()) else None}


def share(own: Dataset, project: str) -> Json:
    """What a project has of a dataset."""
    keys: list[Key] = [(scope, project, None) for scope in own.scopes]
    budget = own.projects[project]
    return {"name": project, "budget": budget, "balance": fullest(own, keys, budget)}


def fullest(own: Dataset, keys: Sequence[Key], budget: Json) -> Json:
    """Several accounts of one budget as one: the most of each part, and the least that remains ("Partitions")."""
    limit = limit_of(budget)
    balances = [own.accounts.get(key, Balance(limit)) for key in keys] or [Balance(limit)]
    most = {
        part: functools.reduce(Amount.most, (getattr(balance, part) for balance in balances))
        for part in ("spent", "held")
    }
    remaining = functools.reduce(Amount.least, (balance.remaining for balance in balances))
    return {name: amount.json() for name, amount in {"limit": limit, **most, "remaining": remaining}.items()}


def moved(datasets: Datasets, run: Run) -> Json:
    """What answers tell of a run: its cost, and what is left of all that it charges in each dataset."""
    rows = []
    for name, keys in run.charges.items():
        amounts = [datasets[name].accounts[key].remaining for key in keys]
        left = functools.reduce(Amount.least, amounts).json() if amounts else None
        rows.append({"name": name, "seq": len(datasets[name].journal), "remaining": left})
    return {"id": run, "state": run.state, "cost": run.cost.json(), "datasets": rows}


# --- docs/reference/receipts.md ---------------------------------------------------------------------------------------


def receipt_state(run: Run) -> str | None:
    """Which receipt a run has: of its start, or before that of its approval; none if it was refused or has ended."""
    return run.state if run.is_open and not run.waits else None


def receipt(run: Run, state: str) -> Json:
    """What a receipt says ("What it says"), beside the tenant, the mechanism's digest and the entries that it names."""
    body = {"v": 2, "type": "receipt", "run": run.id, "state": state, "decision": "approved", "cost": run.cost.json()}
    project = {"project": run.body["project"]} if "project" in run.body else {}
    return {**body, **project, "datasets": [{"name": name, **permitted(run, name)} for name in run.charges]}


def permitted(run: Run, name: str) -> Json:
    """The partitions of a dataset that a receipt permits: those that were charged or, if it has none, those that were
    charged in all that was reached by the same name."""
    charged = {other: {key[0] for key in keys if key[0] is not None} for other, keys in run.charges.items()}
    reached = [parts for other, parts in charged.items() if parts and {*run.via[other]} & {*run.via[name]}]
    if parts := charged[name]:
        reached = [parts]
    return {"partitions": sorted(set[str].intersection(*reached))} if reached else {}
