"""Test vectors for whoever writes a verifier in another language: python -m tests.kit.vectors

Writes `vectors/*.json` at the project's root, always the same bytes: fixed keys, ids and times. `vectors/README.md`
tells how to use them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from ledger.accounting import costs, mechanisms, settling
from ledger.accounting.restarts import Restart
from ledger.accounting.terms import Terms
from ledger.canonical import canonical, digest, parse, parse_canonical
from ledger.client import ReceiptRejected, verify_receipt
from ledger.core.journal import chain
from ledger.signer import receipts
from ledger.verifier import heads, jws
from ledger.verifier.export import ENTRY, request_of
from tests.kit import beside_left, forged_levels, forgeries, trees
from tests.kit.books import TENANT
from tests.kit.exports import KEY, OTHER_KEY, exported, jwks_of
from tests.kit.journals import ONE, TWO

FOLDER: Final = Path(__file__).parents[2] / "vectors"
Vectors = dict[str, Any]


# --- canonical JSON --------------------------------------------------------------------------------------------------

VALUES: Final[Mapping[str, str]] = {
    "members in the order of their code points": '{"b":1,"a":2,"Z":3,"\\u00e4":4,"":5,"a\\u0000":6}',
    "order beyond the basic plane is not that of UTF-16": '{"\\uffff":1,"\\ud83d\\ude00":2}',
    "white space": ' { "a" : [ 1 , 2 ] } ',
    "escapes": '"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\\u007f\\u2028"',
    "letters are not escaped": '"na\\u00efve \\u03a9 \\ud83d\\ude00"',
    "a trailing zero": "1.10",
    "only zeros behind the point": "1.000",
    "an exponent": "1E+2",
    "a small number": "1e-8",
    "more digits than a double has": "0.1000000000000000000000000000000000000001",
    "an integer past 2^53": "9007199254740993",
    "zero": "-0.0",
    "a negative number": "-2.50",
    "literals": "[true,false,null]",
    "nothing in them": '[{},[],""]',
    "as small as numbers get": "1e-400",
    "as large as numbers get": "1e400",
}
NOT_CANONICAL: Final[Mapping[str, str]] = {
    "white space": '{"a": 1}',
    "another order": '{"b":1,"a":2}',
    "a member twice": '{"a":1,"a":1}',
    "a trailing zero": "[1.10]",
    "an exponent": "[1e2]",
    "a huge exponent": "[1e999999999]",
    "a number of a thousand digits": "[" + "9" * 1000 + "]",
    "minus zero": "[-0]",
    "an escaped letter": '["\\u00e4"]',
    "an escaped slash": '["\\/"]',
    "a capital hexadecimal digit": '["\\u001F"]',
    "no number": "[NaN]",
    "something behind it": "[1] ",
}


def canonical_json() -> Vectors:
    """Texts and their canonical form; texts that are not in it."""
    values = []
    for name, text in VALUES.items():
        form = canonical(parse(text))
        values.append({"name": name, "json": text, "canonical": form, "sha256": digest(form).hex()})
    refused = [
        {"name": name, "text": text, "is_canonical": _is_canonical(text)} for name, text in NOT_CANONICAL.items()
    ]
    return {
        "about": "json: a JSON text. canonical: its one canonical text. sha256: of that text's UTF-8 bytes.",
        "values": values,
        "texts": refused,
    }


def _is_canonical(text: str) -> bool:
    try:
        parse_canonical(text)
    except ValueError:
        return False
    return True


# --- exports: chain, rules, and the head -----------------------------------------------------------------------------


BESIDE: Final = "a dataset that costs runs beside what is left"
BATCHES: Final = "batches that are costed beside what is left"
NAMED: Final = {"data-1": ONE, "data-2": TWO}


def exports() -> Vectors:
    """Exports that hold, and forged ones, each with the entry at which it does not."""
    good = {
        "a dataset in partitions": _exported(TWO),
        "a dataset that is derived from it": _exported(ONE),
        BESIDE: _exported_beside(ONE),
        "a dataset in partitions that does": _exported_beside(TWO),
        BATCHES: _exported_batches(),
    }
    cases: list[dict[str, Any]] = [
        {
            "name": name,
            "holds": True,
            "entries": len([line for line in lines if line.startswith('{"seq":')]),
            "lines": lines,
        }
        for name, lines in good.items()
    ]
    base = good["a dataset in partitions"]
    for name, (seq, lines, what) in forgeries.exports().items():
        cases.append({"name": name, "holds": False, "wrong_at": seq, "why": what, **_changed(base, _cut(lines, seq))})
    for name, (_, _, what) in forged_levels.FORGED.items():
        at = forged_levels.wrong_at(name)
        changed = _changed(good[BESIDE], _cut(forged_levels.forged(name), at, name="data-1"))
        cases.append({"name": name, "holds": False, "wrong_at": at, "why": what, "of": BESIDE, **changed})
    requests = beside_left.batches().requests
    for name, (at, _, what) in forged_levels.FORGED_BATCHES.items():
        lines = _cut(forged_levels.forged_batch(name), at, name="data-1", requests=requests)
        about = {"name": name, "holds": False, "wrong_at": at, "why": what, "of": BATCHES}
        cases.append({**about, **_changed(good[BATCHES], lines)})
    return {
        "about": (
            "lines: an export, without the line ends. from, lines: the first export, or the one that `of` names, but"
            " these lines from that index on. wrong_at: the first entry that is wrong, 0 for the header, one more than"
            " there are for what is added. Every head is signed by the key in jwks."
        ),
        "jwks": jwks_of(KEY),
        "cases": cases,
    }


def _cut(lines: list[str], seq: int, name: str = "data-2", requests: Mapping[str, str] | None = None) -> list[str]:
    """The export of the journal up to the entry that is wrong, if it has more than that."""
    count = max(seq, 1)
    if count > len(lines) - 2 or not lines[-1].startswith('{"head":'):
        return lines
    kept = [ENTRY.fullmatch(line) for line in lines[1:] if request_of(line) is None][:count]
    entries = [(match[3], bytes.fromhex(match[2])) for match in kept if match is not None]
    requests = forgeries.story().requests if requests is None else requests
    return [lines[0], *exported(NAMED[name], entries, name=name, requests=requests)[1:]]


def _exported_beside(dataset_id: UUID) -> list[str]:
    """A journal of runs costed beside what is left."""
    made = beside_left.story()
    return exported(dataset_id, made.journals[dataset_id], requests=made.requests)


def _exported_batches() -> list[str]:
    """A journal with batches."""
    made = beside_left.batches()
    return exported(ONE, made.journals[ONE], requests=made.requests)


def _exported(dataset_id: UUID) -> list[str]:
    """A journal of the story as it is exported."""
    made = forgeries.story()
    return exported(dataset_id, made.journals[dataset_id], requests=made.requests)


def _changed(base: Sequence[str], lines: Sequence[str]) -> dict[str, Any]:
    """The lines from the first one on that is another."""
    same = next((at for at, pair in enumerate(zip(base, lines, strict=False)) if pair[0] != pair[1]), len(base))
    return {"from": same, "lines": lines[same:]}


# --- the Merkle tree -------------------------------------------------------------------------------------------------

SIZES: Final = (1, 2, 3, 4, 5, 7, 8, 11)


def merkle() -> Vectors:
    """Roots and proofs over eleven hashes."""
    leaves = [digest(f"entry {seq}") for seq in range(1, max(SIZES) + 1)]
    roots = {size: trees.root_of(leaves[:size]).hex() for size in range(max(SIZES) + 1)}
    inclusions, consistencies = [], []
    for size in SIZES:
        for seq in range(1, size + 1):
            path = [step.hex() for step in trees.inclusion_proof(leaves[:size], seq - 1)]
            inclusions.append(
                {"seq": seq, "hash": leaves[seq - 1].hex(), "size": size, "root": roots[size], "path": path}
            )
        for old in range(1, size + 1):
            path = [step.hex() for step in trees.consistency_proof(leaves[:size], old)]
            ends = {"from": old, "from_root": roots[old], "to": size, "root": roots[size]}
            consistencies.append({**ends, "path": path})
    return {
        "about": "hashes: of entries, the leaves' data. root: in hexadecimal. RFC 9162, 2.1, with SHA-256.",
        "hashes": [leaf.hex() for leaf in leaves],
        "roots": [{"size": size, "root": root} for size, root in roots.items()],
        "inclusion": [{**case, "holds": True} for case in inclusions] + list(_bent(inclusions)),
        "consistency": [{**case, "holds": True} for case in consistencies] + list(_bent(consistencies)),
    }


def _bent(cases: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The longest proof with something wrong."""
    longest = max(cases, key=lambda case: len(case["path"]))
    path = longest["path"]
    for other in ([path[0][::-1], *path[1:]], path[1:], [*path, path[0]], path[::-1], []):
        yield {**longest, "path": other, "holds": False}
    yield {**longest, "root": longest["root"][::-1], "holds": False}
    first = "seq" if "seq" in longest else "from"
    yield {**longest, first: longest[first] - 1, "holds": False}


# --- signed statements -----------------------------------------------------------------------------------------------


def signed_heads() -> Vectors:
    """Heads, and what must not pass for one."""
    lines = _exported(TWO)
    token = json.loads(lines[-1])["head"]["signature"]
    payload = jws.read(token, keys=jws.PublicKeys.of(jwks_of(KEY)), typ=jws.HEAD)
    first, second, third = token.split(".")
    text = canonical(payload)
    cases = {
        "good": token,
        "signed by another key": jws.sign(text, key=OTHER_KEY, typ=jws.HEAD),
        "signed as a receipt": jws.sign(text, key=KEY, typ=jws.RECEIPT),
        "with another payload": ".".join((first, jws.sign("{}", key=KEY, typ=jws.HEAD).split(".")[1], third)),
        "with another signature": f"{first}.{second}.{third[:-6]}AAAA{third[-2:]}",
        "with base64 padding": f"{first}=.{second}.{third}",
        "with a part too many": f"{token}.",
        "without a signature": f"{first}.{second}.",
    }
    return {
        "about": "token: a compact JWS. payload: what a good one says. jwks: the keys to believe.",
        "jwks": jwks_of(KEY),
        "cases": [{"name": name, "token": case, **_head(case)} for name, case in cases.items()],
    }


def _head(token: str) -> dict[str, Any]:
    try:
        head = heads.read(token, keys=jws.PublicKeys.of(jwks_of(KEY)), source="vector")
    except jws.SignatureInvalid:
        return {"holds": False}
    return {"holds": True, "payload": head.payload()}


def signed_receipts() -> Vectors:
    """Receipts, what is asked of them, and what comes of it."""
    decisions, started, held = _entries_of(3)
    whole, whole_started, _ = _entries_of(1)
    start = canonical(receipts.payload(decisions, started, tenant="acme"))
    token = jws.sign(start, key=KEY, typ=jws.RECEIPT)
    approval = jws.sign(canonical(receipts.payload(decisions, held, tenant="acme")), key=KEY, typ=jws.RECEIPT)
    of_whole = jws.sign(canonical(receipts.payload(whole, whole_started, tenant="acme")), key=KEY, typ=jws.RECEIPT)
    at, began = started[0]["at"], started[0]["begin_by"]
    mechanism = decisions[0]["request"]["mechanism"]
    use = {"name": "data-1", "partitions": ["a"]}
    good = {"tenant": str(TENANT), "run": decisions[0]["run"], "datasets": [use], "mechanism": mechanism}
    asked: list[tuple[str, str, dict[str, Any], str]] = [
        ("good", token, good, at),
        ("at the last moment to begin", token, good, began),
        ("a moment later", token, good, _later(began, timedelta(microseconds=1))),
        ("expired", token, good, _later(at, timedelta(days=31))),
        ("signed by another key", jws.sign(start, key=OTHER_KEY, typ=jws.RECEIPT), good, at),
        ("signed as a head", jws.sign(start, key=KEY, typ=jws.HEAD), good, at),
        ("of an approval, where a start is asked for", approval, good, at),
        ("of an approval, where that is enough", approval, {**good, "state": "held"}, at),
        ("of another tenant", token, {**good, "tenant": str(UUID(int=8))}, at),
        ("of another run", token, {**good, "run": str(UUID(int=9))}, at),
        ("of another dataset", token, {**good, "datasets": ["data-9"]}, at),
        ("of another partition", token, {**good, "datasets": [{"name": "data-2", "partitions": ["b"]}]}, at),
        ("of one partition, where all are asked for", token, {**good, "datasets": ["data-2"]}, at),
        ("of another mechanism", token, {**good, "mechanism": {**mechanism, "count": 2}}, at),
        ("of partitions that are charged", of_whole, {"datasets": [{"name": "data-2", "partitions": ["a", "b"]}]}, at),
        ("of a partition that there was not", of_whole, {"datasets": [{"name": "data-2", "partitions": ["c"]}]}, at),
    ]
    return {
        "about": (
            "token: a receipt. asked: what a job wants of it; state is `started` if it is left out. now: the time."
            " verdict: `good`, or the code of why not. jwks: the keys to believe."
        ),
        "jwks": jwks_of(KEY),
        "cases": [
            {"name": name, "token": case, "asked": wanted, "now": now, "verdict": _verdict(case, wanted, now)}
            for name, case, wanted, now in asked
        ],
    }


def _entries_of(number: int) -> tuple[list[Any], list[Any], list[Any]]:
    """The approvals of a run of the story, its starts, and its approvals again, with their hashes."""
    run = str(UUID(int=1000 + number))
    found: dict[str, list[Any]] = {"run-approved": [], "run-started": []}
    for entries in reversed(forgeries.story().journals.values()):
        for body, hash_ in entries:
            entry = receipts.ParsedEntry(chain.parse(body))
            entry.hash = hash_.hex()
            if entry.get("run") == run and entry["kind"] in found:
                found[entry["kind"]].append(entry)
    return found["run-approved"], found["run-started"], found["run-approved"]


def _later(at: str, wait: timedelta) -> str:
    return (datetime.fromisoformat(at) + wait).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _verdict(token: str, asked: Mapping[str, Any], now: str) -> str:
    try:
        verify_receipt(token, jwks=jwks_of(KEY), now=datetime.fromisoformat(now), **asked)
    except ReceiptRejected as error:
        return error.code
    return "good"


# --- settlements -----------------------------------------------------------------------------------------------------

GAUSSIAN: Final = {"type": "gaussian", "noise_multiplier": 10, "count": 4}
SHUFFLED: Final = {
    "type": "dpsgd",
    "sampling": "shuffle",
    "noise_multiplier": 4,
    "dataset_size": 100,
    "batch_size": 25,
    "epochs": 3,
}
MATRIX: Final = {
    "type": "matrix_factorization",
    "noise_multiplier": 5,
    "strategy": "identity",
    "steps": 10,
    "participations": 1,
}
ENDS: Final = ("planned", "data_independent", "data_dependent")
SETTLED: Final[Sequence[tuple[str, dict[str, Any], int, Sequence[int]]]] = (
    ("gaussian", GAUSSIAN, 1, (0, 1, 3, 4, 7)),
    ("shuffled", SHUFFLED, 1, (1, 4, 5, 12, 13)),
    ("matrix factorization", MATRIX, 1, (1, 9, 10, 11)),
    ("segments", {**MATRIX, "steps": 12}, 3, (1, 4, 5, 12, 14)),
)
RESTARTED: Final[Sequence[tuple[str, dict[str, Any], int, int, Sequence[Restart]]]] = (
    ("shuffled", SHUFFLED, 1, 12, ()),
    ("shuffled", SHUFFLED, 1, 15, (Restart(2, 4, new_batches=False),)),
    ("shuffled", SHUFFLED, 1, 15, (Restart(2, 4, new_batches=True),)),
    ("shuffled", SHUFFLED, 1, 12, (Restart(6, 5, new_batches=True),)),
    ("matrix factorization", MATRIX, 1, 13, (Restart(2, 4, new_batches=False),)),
    ("matrix factorization", MATRIX, 1, 13, (Restart(2, 4, new_batches=True),)),
    ("segments", {**MATRIX, "steps": 12}, 3, 16, (Restart(4, 5, new_batches=False), Restart(1, 2, new_batches=False))),
)


def settlements() -> Vectors:
    """What runs are charged, by how far they came, by what made them stop, and by what was run again."""
    cases = []
    for name, declared, segments, counts in SETTLED:
        for steps in counts:
            cases += [case for stop in ENDS for case in _settled(name, declared, segments, steps, stop, None)]
    for name, declared, segments, steps, restarts in RESTARTED:
        cases += _settled(name, declared, segments, steps, "planned", restarts)
    return {
        "about": (
            "steps, stop: how far a run came, and why no further; restarts: what was run again, left out where nothing"
            " was said of that. charged and returned are together the cost of what was approved; overrun is charged"
            " besides, in the settlement's entry as part of charged."
        ),
        "cases": cases,
    }


def _settled(
    name: str, declared: dict[str, Any], segments: int, steps: int, stop: Any, restarts: Sequence[Restart] | None
) -> Iterator[dict[str, Any]]:
    """One settlement under each adjacency, if the server takes it: who stopped early did not stop as planned."""
    mechanism = mechanisms.parse(parse(json.dumps(declared)))
    planned = mechanisms.planned_steps(mechanism, segments)
    if stop == "planned" and planned is not None and steps < planned[0]:
        return
    again = None if restarts is None else tuple(restarts)
    for adjacency in ("add_or_remove_one", "replace_one"):
        terms = Terms(bound="clt", adjacency=adjacency, delta=Decimal(0), segments=segments)
        approved = costs.cost(mechanism, terms)
        how: dict[str, Any] = {"method": approved.method, "steps": steps, "stop": stop, "restarts": again}
        charge = settling.charge(mechanism, terms, approved=approved.amount, **how)
        excess = charge.excess
        more = {} if excess is None else {"overrun": {"steps": charge.excess_steps, "cost": excess.amount.facts()}}
        yield {
            "name": f"{name}, {adjacency}, {steps} steps, {stop}",
            "mechanism": declared,
            "bound": "clt",
            "adjacency": adjacency,
            **({} if segments == 1 else {"segments": segments}),
            "cost": approved.amount.facts(),
            "steps": steps,
            "stop": stop,
            **({} if again is None else {"restarts": [asdict(restart) for restart in again]}),
            "charged": charge.charged.facts(),
            "returned": (approved.amount - charge.charged).facts(),
            **more,
        }


# --- files -----------------------------------------------------------------------------------------------------------

FILES: Final = {
    "canonical.json": canonical_json,
    "exports.json": exports,
    "merkle.json": merkle,
    "heads.json": signed_heads,
    "receipts.json": signed_receipts,
    "settlements.json": settlements,
}


def text_of(name: str) -> str:
    """What a file is to have in it."""
    return json.dumps(FILES[name](), ensure_ascii=True, indent=1) + "\n"


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for name in FILES:
        (FOLDER / name).write_text(text_of(name), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
