"""An auditor who has an export, the public keys and docs/reference/export.md, and trusts nothing else: it imports
nothing of the ledger, but `cryptography`, for Ed25519, and the verifier beside it, which imports nothing of the ledger
either.

python independent_auditor.py EXPORT JWKS     prints the totals as JSON, or the first thing that is wrong
"""

import base64
import hashlib
import json
import math
import pathlib
import statistics
import sys
from decimal import Decimal, getcontext
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import independent_reading as reading  # type: ignore[import-not-found]  # they stand beside this file
import independent_verifier as verifier  # type: ignore[import-not-found]

HEAD = "privacy-ledger-head+jws"
DELTAS = (1e-5, 1e-6)
RATES = (0.001, 0.01, 0.05)
getcontext().prec = 50


def decoded(text: str) -> bytes:
    """What base64url stands for."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def merkle_root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, level by level: pairs are hashed together, and one that is left over goes up."""
    level = [hashlib.sha256(b"\x00" + each).digest() for each in hashes] or [hashlib.sha256(b"").digest()]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


def signed(token: str, jwks: dict[str, Any]) -> dict[str, Any]:
    """What a head's signature says, by one of the keys. Raises ValueError."""
    first, second, third = token.split(".")
    header = json.loads(decoded(first))
    if header["alg"] != "EdDSA" or header["typ"] != HEAD:
        raise ValueError("the signature is of something else")
    (key,) = [each for each in jwks["keys"] if each["kid"] == header["kid"]]
    try:
        Ed25519PublicKey.from_public_bytes(decoded(key["x"])).verify(decoded(third), f"{first}.{second}".encode())
    except InvalidSignature:
        raise ValueError("the signature does not hold") from None
    found: dict[str, Any] = json.loads(decoded(second))
    return found


def audited(lines: list[str], jwks: dict[str, Any]) -> dict[str, Any]:
    """The totals of a dataset's journal, once chain, arithmetic, root and signature hold. Raises ValueError."""
    count, accounts = verifier.verify(lines)
    header, head = json.loads(lines[0]), json.loads(lines[-1])["head"]
    entries = [json.loads(line) for line in lines[1:-1] if line.startswith('{"seq":')]
    root = merkle_root([bytes.fromhex(entry["hash"]) for entry in entries]).hex()
    expected = {
        "v": 1,
        "type": "head",
        "tenant": header["tenant"],
        "dataset": header["dataset"],
        "seq": count,
        "hash": head["hash"],
        "root": root,
        "at": entries[-1]["entry"]["at"],
    }
    if head["root"] != root or signed(head["signature"], jwks) != expected:
        raise ValueError(f"{count}: the head is another one")
    return totals(header, head, [entry["entry"] for entry in entries], accounts)


def totals(
    header: dict[str, Any], head: dict[str, Any], entries: list[dict[str, Any]], accounts: dict[Any, Any]
) -> dict[str, Any]:
    """What the journal comes to, per account and for each budget: of disjoint partitions the fullest counts, in each
    quantity for itself."""
    states: dict[str, str] = {}
    for entry in entries:
        if entry["kind"].startswith("run-"):
            states[entry["run"]] = {"approved": "held"}.get(entry["kind"][4:], entry["kind"][4:])
    shown = []
    budgets: dict[str, list[dict[str, list[int]]]] = {}
    for (partition, project, principal), account in accounts.items():
        used = verifier.add(account["spent"], account["held"])
        full = account | {"remaining": verifier.add(account["limit"], used, -1)}
        shown.append({"partition": partition, "project": project, "principal": principal, **said(full)})
        if principal is None:
            budgets.setdefault(project or "", []).append(full)
    return {
        "tenant": header["tenant"]["name"],
        "dataset": header["dataset"]["name"],
        "seq": head["seq"],
        "hash": head["hash"],
        "root": head["root"],
        "balances": {project: said(fullest(those)) for project, those in budgets.items()},
        "accounts": shown,
        "disclosed": {part: disclosed(fullest(budgets[""])[part]) for part in ("spent", "limit")},
        **moved(entries),
        "runs": {state: sum(each == state for each in states.values()) for state in sorted(set(states.values()))},
    }


def moved(entries: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What was charged for runs, and what they gave back."""
    added = {"charged": [0, 0], "returned": [0, 0]}
    for entry in entries:
        for part in added:
            if part in entry:
                added[part] = [
                    mine + int(entry[part][name]) for mine, name in zip(added[part], reading.QUANTITIES, strict=True)
                ]
    return said(added)


def disclosed(amount: list[int]) -> dict[str, Any]:
    """An amount in words, by the formulas of docs/explanation/accounting.md: epsilon at two deltas, and by how many
    true positives the best attack goes with so many false ones."""
    mu, exact = math.sqrt(amount[0] / 1e12), 1 - (-Decimal(amount[1]).scaleb(-18)).exp()
    delta = float(exact)

    def curve(epsilon: float) -> float:
        if mu == 0:
            return 0.0
        return below(-epsilon / mu + mu / 2) - math.exp(epsilon) * below(-epsilon / mu - mu / 2)

    def epsilon(at: float) -> float | None:
        # In doubles the difference would lose its digits where a budget's delta is nearly the one that is asked about.
        left = float((Decimal(repr(at)) - exact) / (1 - exact))
        if left <= 0:
            return None
        low, high = 0.0, 100.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if curve(middle) > left else (low, middle)
        return high

    def rate(alpha: float) -> float:
        return min(1.0, delta + (1 - delta) * below(statistics.NormalDist().inv_cdf(alpha / (1 - delta)) + mu))

    return {"epsilon": {str(at): epsilon(at) for at in DELTAS}, "rates": {str(at): rate(at) for at in RATES}}


def below(z: float) -> float:
    """The standard normal distribution's CDF, from the tail that does not cancel."""
    return math.erfc(-z / math.sqrt(2)) / 2


def fullest(accounts: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Several accounts of one budget, as one: the most of each part, and the least that remains."""
    return {
        part: [(min if part == "remaining" else max)(each[part][at] for each in accounts) for at in (0, 1)]
        for part in accounts[0]
    }


def said(account: dict[str, list[int]]) -> dict[str, dict[str, str]]:
    """Amounts as the ledger writes them."""
    return {part: dict(zip(reading.QUANTITIES, map(str, amount), strict=True)) for part, amount in account.items()}


if __name__ == "__main__":
    export, keys = (pathlib.Path(name).read_text(encoding="utf-8") for name in sys.argv[1:3])
    print(json.dumps(audited(export.split("\n")[:-1], json.loads(keys))))
