"""A verifier that somebody else could have written from docs/export.md: it imports nothing of the ledger.

python independent_verifier.py EXPORT     prints what the journal adds up to, or the first entry that is wrong
"""

import hashlib
import json
import pathlib
import sys
from typing import Any

QUANTITIES = ("mu_sq_pico", "delta_atto")
PARTS = ("limit", "spent", "held", "overdrawn")
INT64_MAX = 2**63 - 1
Key = tuple[str | None, str | None, str | None]  # partition, project, principal
Account = dict[str, list[int]]  # by part; mu and delta
OWN = (None, None, None)


def amount(said: dict[str, str]) -> list[int]:
    """Mu and delta, as integers."""
    return [int(said[quantity]) for quantity in QUANTITIES]


def add(one: list[int], other: list[int], sign: int = 1) -> list[int]:
    """The sum, or the difference."""
    return [a + sign * b for a, b in zip(one, other, strict=True)]


def over(account: Account) -> list[int]:
    """By how much more is spent and held than the limit."""
    used = add(account["spent"], account["held"])
    return [max(0, a - b) for a, b in zip(used, account["limit"], strict=True)]


def fresh(limit: list[int] | None) -> Account:
    """An account with nothing in it."""
    return {"limit": limit or [], "spent": [0, 0], "held": [0, 0], "overdrawn": [0, 0]}


def stated(entry: dict[str, Any]) -> dict[Key, Account]:
    """The balances that an entry says."""
    found: dict[Key, Account] = {}
    groups = [*entry.get("accounts", ()), *([entry["balance"]] if "balance" in entry else [])]
    for group in groups:
        for partition in group.get("partitions", [None]):
            key = (partition, group.get("project"), group.get("principal"))
            if key in found:
                raise ValueError(f"{entry['seq']}: one account stands twice")
            found[key] = {part: amount(group[part]) for part in PARTS}
    return found


def verify(lines: list[str]) -> tuple[int, dict[Key, Account]]:  # noqa: C901 (in one piece, to be read from top to bottom)
    """Return (entries, accounts), or raise ValueError naming the first entry that is wrong."""
    header = json.loads(lines[0])
    if header["format"] != "privacy-ledger-export" or header["version"] not in (1, 2):
        raise ValueError("0: unknown format")
    prev, state, is_partitioned = "0" * 64, "", False
    limit: list[int] | None = None
    ceiling: list[int] | None = None
    fair: list[int] | None = None
    shares: dict[str, list[int]] = {}
    runs: dict[str, tuple[str, list[int], list[Key]]] = {}
    reported: set[str] = set()
    accounts: dict[Key, Account] = {}

    for seq, line in enumerate(lines[1:-1], start=1):

        def demand(holds: bool, what: str, seq: int = seq) -> None:
            if not holds:
                raise ValueError(f"{seq}: {what}")

        body = line.split('"entry":', 1)[1][:-1]
        item, entry = json.loads(line), json.loads(body)
        demand(hashlib.sha256(body.encode()).hexdigest() == item["hash"], "its hash is wrong")
        demand((entry["seq"], entry["prev"]) == (seq, prev) and item["seq"] == seq, "it does not follow")
        demand(entry["dataset_id"] == header["dataset"]["id"], "another dataset's")
        demand(entry["v"] in (1, 2), "an unknown version")
        demand(entry["tenant"] == header["tenant"]["id"], "another tenant's")
        prev, kind, said, run = item["hash"], entry["kind"], stated(entry), entry.get("run", "")
        touched: dict[Key, Account] = {OWN: dict(accounts[OWN])} if OWN in accounts else {}
        if kind in ("dataset-registered", "budget-set") and entry["limit"] is not None:
            limit = amount(entry["limit"])
        if kind == "dataset-registered":
            is_partitioned = entry.get("is_partitioned", False)
            ceiling = amount(entry["ceiling_limit"]) if "ceiling_limit" in entry else None
            demand(limit is not None or bool(entry["derived_from"]), "neither a budget nor an origin")
            names = [key[0] for key in said] if is_partitioned else [None] * (limit is not None)
            touched = {(name, None, None): fresh(limit) for name in names}
        elif kind == "partitions-added":
            demand(entry["disjoint"] is True, "not said to be disjoint")
            demand(is_partitioned and not any((n, None, None) in accounts for n in entry["names"]), "not new")
            for name in entry["names"]:
                touched[name, None, None] = fresh(limit)
        elif kind in ("budget-set", "project-set"):
            whose = entry.get("project") if kind == "project-set" else None
            new = amount(entry["limit"])
            shares |= {whose: new} if whose is not None else {}
            for key in (key for key in accounts if key[1:] == (whose, None)):
                touched[key] = accounts[key] | {"limit": new}
        elif kind == "fair-use-set":
            fair = None if entry["fair_use"]["limit"] is None else amount(entry["fair_use"]["limit"])
        elif kind in ("run-approved", "run-refused"):
            demand(run not in runs and (kind == "run-refused" or state == "active"), "the dataset was not active")
            cost, who = amount(entry["cost"]), entry["actor"]["principal"]
            for scope in {key[0] for key in said} if is_partitioned else {None}:
                limits = [((scope, None, None), limit), ((scope, None, who), fair)]
                if entry.get("project") in shares:
                    limits.append(((scope, entry["project"], None), shares[entry["project"]]))
                for key, its in limits:
                    if its is not None:
                        demand(key in accounts or key[1:] != (None, None), "there is no such partition")
                        touched[key] = accounts.get(key, fresh(its))
                        least = touched[key]["held"] if key[2] is not None else [0, 0]
                        now = [max(pair) for pair in zip(its, least, strict=True)]
                        touched[key] = touched[key] | {"limit": now}
            rests = [add(add(a["limit"], a["spent"], -1), a["held"], -1) for a in touched.values()]
            bound = [name for at, name in enumerate(("mu", "delta")) if any(cost[at] > rest[at] for rest in rests)]
            elsewhere = entry.get("binding_elsewhere", [])
            demand(bool(bound or elsewhere) == (kind == "run-refused"), "the decision is wrong")
            demand(bound == entry.get("binding", []), "the decision says another reason")
            runs[run] = ("held" if kind == "run-approved" else "refused", cost, list(touched))
            if kind == "run-approved":
                touched = {key: a | {"held": add(a["held"], cost)} for key, a in touched.items()}
        elif kind in ("run-started", "run-reported", "run-settled", "run-voided"):
            was, cost, keys = runs[run]
            allowed = {"run-started": ("held",), "run-settled": ("started",), "run-voided": ("held", "started")}
            allowed["run-reported"] = ("started",)
            demand(was in allowed[kind] and (kind != "run-started" or state == "active"), "a run that cannot get there")
            runs[run] = ("started" if kind == "run-reported" else kind.removeprefix("run-"), cost, keys)
            charged = amount(entry["charged"]) if kind == "run-settled" else [0, 0]
            beyond = amount(entry["overrun"]["cost"]) if "overrun" in entry else [0, 0]
            if kind == "run-settled":
                demand(add(add(charged, beyond, -1), amount(entry["returned"])) == cost, "not what was approved")
                demand(min(amount(entry["returned"])) >= 0, "more than was approved")
            is_beyond = kind == "run-reported"
            if is_beyond:
                own = [accounts[key]["limit"] for key in keys if key[2] is None]
                passes = any(b > c for limit in own for b, c in zip(beyond, limit, strict=True))
                named = entry["overrun"]["beyond_limits"]
                demand(bool(named) and (entry["dataset"] in named) == passes, "a report of what a budget could cover")
                reported.add(run)
            elif kind == "run-settled":
                demand(("report" in entry) == (run in reported), "a report and what answers it do not agree")
            for key in keys:
                touched[key] = dict(accounts[key])
                if kind == "run-reported":
                    continue
                if kind != "run-started":
                    touched[key]["held"] = add(touched[key]["held"], cost, -1)
                if key[2] is None:
                    spent = add(touched[key]["spent"], add(charged, beyond, -1))
                    capped = [min(value, INT64_MAX) for value in spent]
                    left = add(add(touched[key]["limit"], capped, -1), touched[key]["held"], -1)
                    is_beyond |= "overrun" in entry and any(b > c for b, c in zip(beyond, left, strict=True))
                    touched[key]["spent"] = [min(value, INT64_MAX) for value in add(spent, beyond)]
                if "overrun" in entry:
                    touched[key]["overdrawn"] = over(touched[key])
            said_of_it = entry.get("overrun", {"frozen": [], "fits": True})
            demand((entry["dataset"] in said_of_it["frozen"]) == is_beyond, "what was overdrawn is not said")
            demand(said_of_it["fits"] == (not said_of_it["frozen"]), "whether the overrun fits is not said")
            demand(is_beyond == (entry.get("state") in ("frozen", "retired")), "frozen for nothing, or not frozen")
        for account in touched.values():
            eased = [min(a, b) for a, b in zip(account["overdrawn"], over(account), strict=True)]
            account["overdrawn"] = eased
            demand(over(account) == eased, "more than the limit")
        demand(ceiling is None or limit is None or all(a <= b for a, b in zip(limit, ceiling, strict=True)), "ceiling")
        demand(said == touched, "its balances are not what the entries add up to")
        accounts |= touched
        state = entry.get("state", state)
    head = json.loads(lines[-1])["head"]
    if (head["seq"], head["hash"]) != (len(lines) - 2, prev):
        raise ValueError(f"{len(lines) - 1}: the head names another entry")
    return len(lines) - 2, accounts


if __name__ == "__main__":
    print(*verify(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").split("\n")[:-1]))
