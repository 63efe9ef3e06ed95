"""A verifier that somebody else could have written from docs/export.md: it imports nothing of the ledger.

python independent_verifier.py EXPORT     prints what the journal adds up to, or the first entry that is wrong
"""

import hashlib
import json
import pathlib
import sys

QUANTITIES = ("mu_sq_pico", "delta_atto")


def verify(lines: list[str]) -> tuple[int, dict[str, dict[str, int]]]:  # noqa: C901 (in one piece, to be read from top to bottom)
    """Return (entries, balance), or raise ValueError naming the first entry that is wrong."""
    header = json.loads(lines[0])
    if (header["format"], header["version"]) != ("privacy-ledger-export", 1):
        raise ValueError("0: unknown format")
    prev, state = "0" * 64, ""
    costs: dict[str, dict[str, str]] = {}
    states: dict[str, str] = {}
    balance = {part: dict.fromkeys(QUANTITIES, 0) for part in ("limit", "spent", "held", "overdrawn")}

    def move(part: str, amount: dict[str, str], sign: int) -> None:
        for quantity in QUANTITIES:
            balance[part][quantity] += sign * int(amount[quantity])

    def become(run: str, before: tuple[str | None, ...], after: str) -> None:
        demand(states.get(run) in before, "a run that cannot get there")
        states[run] = after

    for seq, line in enumerate(lines[1:-1], start=1):

        def demand(holds: bool, what: str, seq: int = seq) -> None:
            if not holds:
                raise ValueError(f"{seq}: {what}")

        body = line.split('"entry":', 1)[1][:-1]
        stated, entry = json.loads(line), json.loads(body)
        demand(hashlib.sha256(body.encode()).hexdigest() == stated["hash"], "its hash is wrong")
        demand((entry["seq"], entry["prev"]) == (seq, prev) and stated["seq"] == seq, "it does not follow")
        demand(entry["dataset_id"] == header["dataset"]["id"], "another dataset's")
        demand(entry["tenant"] == header["tenant"]["id"], "another tenant's")
        prev, kind, run = stated["hash"], entry["kind"], entry.get("run")
        left = {q: balance["limit"][q] - balance["spent"][q] - balance["held"][q] for q in QUANTITIES}
        if kind in ("dataset-registered", "budget-set"):
            balance["limit"] = {quantity: int(entry["limit"][quantity]) for quantity in QUANTITIES}
        elif kind in ("run-approved", "run-refused"):
            costs[run] = entry["cost"]
            become(run, (None,), "held" if kind == "run-approved" else "refused")
            fits = all(int(entry["cost"][quantity]) <= left[quantity] for quantity in QUANTITIES)
            demand(fits == (kind == "run-approved"), "the decision is wrong")
            demand(kind == "run-refused" or state == "active", "the dataset was not active")
            move("held", entry["cost"], 1 if kind == "run-approved" else 0)
        elif kind == "run-started":
            become(run, ("held",), "started")
        elif kind == "run-settled":
            become(run, ("started",), "settled")
            move("held", costs[run], -1)
            move("spent", entry["charged"], 1)
        elif kind == "run-voided":
            become(run, ("held", "started"), "voided")
            move("held", costs[run], -1)
        state = entry.get("state", state)
        said = {p: {q: int(entry["balance"][p][q]) for q in QUANTITIES} for p in balance}
        demand(said == balance, "its balance is not what the entries add up to")
    if json.loads(lines[-1])["head"] != {"seq": len(lines) - 2, "hash": prev}:
        raise ValueError(f"{len(lines) - 1}: the head names another entry")
    return len(lines) - 2, balance


if __name__ == "__main__":
    print(*verify(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").split("\n")[:-1]))
