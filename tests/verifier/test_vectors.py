"""The test vectors that are published: made again, and held against the product and against what shares no code."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any, Final

import pytest

from ledger.accounting import mechanisms, settling
from ledger.accounting.costs import cost
from ledger.accounting.restarts import Restart
from ledger.accounting.terms import Terms
from ledger.canonical import canonical, digest, parse, parse_canonical
from ledger.client import ReceiptRejected, verify_receipt
from ledger.core.amounts import Amount
from ledger.errors import JournalBroken
from ledger.verifier import heads, jws, merkle
from ledger.verifier.verify import verify
from tests.kit import independent_auditor, independent_reading, trees, vectors
from tests.kit import independent_verifier as independent


def read(name: str) -> dict[str, Any]:
    """A file of vectors, as anybody reads it."""
    found: dict[str, Any] = json.loads((vectors.FOLDER / name).read_text("ascii"))
    return found


CANONICAL, EXPORTS, MERKLE = read("canonical.json"), read("exports.json"), read("merkle.json")
HEADS, RECEIPTS, SETTLEMENTS = read("heads.json"), read("receipts.json"), read("settlements.json")
KEYS: Final = jws.PublicKeys.of(HEADS["jwks"])


@pytest.mark.parametrize("name", vectors.FILES)
def test_the_vectors_are_those_of_this_version(name: str) -> None:
    """Goal: what is published is what this version does. Method: make them again, and compare byte for byte; where this
    fails by intent, run python -m tests.kit.vectors."""
    assert (vectors.FOLDER / name).read_bytes() == vectors.text_of(name).encode("ascii")


def test_the_readme_names_every_file() -> None:
    """Goal: whoever reads the README finds all of them, and no other."""
    text = (vectors.FOLDER / "README.md").read_text("utf-8")
    assert {path.name for path in vectors.FOLDER.iterdir()} == {*vectors.FILES, "README.md"}
    assert all(f"`{name}`" in text for name in vectors.FILES)


# --- the product -----------------------------------------------------------------------------------------------------


def lines_of(case: dict[str, Any]) -> list[str]:
    """The lines of an export."""
    named = {whole["name"]: whole["lines"] for whole in EXPORTS["cases"] if whole["holds"]}
    base = named[case["of"]] if "of" in case else EXPORTS["cases"][0]["lines"]
    return [*base[: case.get("from", 0)], *case["lines"]]


def test_the_product_passes() -> None:
    """Goal: the verdicts are the product's, by each function that an auditor or the client calls."""
    for case in CANONICAL["values"]:
        form = canonical(parse(case["json"]))
        assert (form, digest(form).hex()) == (case["canonical"], case["sha256"]), case["name"]
        assert canonical(parse_canonical(form)) == form
    for case in CANONICAL["texts"]:
        with pytest.raises(ValueError):  # noqa: PT011 (JSON's own errors among them)
            parse_canonical(case["text"])
    for case in EXPORTS["cases"]:
        if case["holds"]:
            assert verify(lines_of(case), keys=KEYS).journal.seq == case["entries"]
            continue
        with pytest.raises(JournalBroken, match=case["why"]) as caught:
            verify(lines_of(case), keys=KEYS)
        assert caught.value.seq == case["wrong_at"], case["name"]


def test_the_product_proves() -> None:
    """The same for roots, proofs and signed heads."""
    leaves = [bytes.fromhex(leaf) for leaf in MERKLE["hashes"]]
    for case in MERKLE["roots"]:
        assert trees.root_of(leaves[: case["size"]]).hex() == case["root"]
    for case in MERKLE["inclusion"]:
        path, root = [bytes.fromhex(step) for step in case["path"]], bytes.fromhex(case["root"])
        leaf = bytes.fromhex(case["hash"])
        assert merkle.includes(leaf, index=case["seq"] - 1, size=case["size"], path=path, root=root) == case["holds"]
    for case in MERKLE["consistency"]:
        path, roots = [bytes.fromhex(step) for step in case["path"]], (case["from_root"], case["root"])
        old_root, new_root = map(bytes.fromhex, roots)
        sizes = {"old": case["from"], "new": case["to"]}
        assert merkle.continues(**sizes, path=path, old_root=old_root, new_root=new_root) == case["holds"]
    for case in HEADS["cases"]:
        try:
            found = heads.read(case["token"], keys=KEYS, source="a vector").payload()
        except jws.SignatureInvalid:
            found = None
        assert found == case.get("payload"), case["name"]


def test_the_product_takes_receipts() -> None:
    """The same for receipts."""
    for case in RECEIPTS["cases"]:
        now = datetime.fromisoformat(case["now"])
        verdict = "good"
        try:
            verify_receipt(case["token"], jwks=RECEIPTS["jwks"], now=now, **case["asked"])
        except ReceiptRejected as error:
            verdict = error.code
        assert verdict == case["verdict"], case["name"]


def test_the_product_settles() -> None:
    """The same for settlements."""
    for case in SETTLEMENTS["cases"]:
        mechanism = mechanisms.parse(case["mechanism"])
        terms = Terms(
            bound=case["bound"], adjacency=case["adjacency"], delta=Decimal(0), segments=case.get("segments", 1)
        )
        approved = cost(mechanism, terms)
        assert approved.amount.facts() == case["cost"]
        restarts = tuple(Restart(**stated) for stated in case["restarts"]) if "restarts" in case else None
        how: dict[str, Any] = {"steps": case["steps"], "stop": case["stop"], "restarts": restarts}
        charge = settling.charge(mechanism, terms, approved=approved.amount, method=approved.method, **how)
        returned = approved.amount - charge.charged
        assert (charge.charged.facts(), returned.facts()) == (case["charged"], case["returned"]), case["name"]
        excess = Amount(0, 0) if charge.excess is None else charge.excess.amount
        assert excess.facts() == case.get("overrun", {"cost": Amount(0, 0).facts()})["cost"]


# --- what shares no code ---------------------------------------------------------------------------------------------


def test_the_independent_verifier_passes() -> None:
    """Goal: the vectors are right, and not only the product's. Method: the verifier that shares no code, on everything
    but proofs and settlements."""
    for case in CANONICAL["values"]:
        form = case["canonical"]
        assert independent_reading.canonical(independent_reading.load(form)) == form
        assert hashlib.sha256(form.encode()).hexdigest() == case["sha256"]
    for case in CANONICAL["texts"]:
        try:
            is_canonical = independent_reading.canonical(independent_reading.load(case["text"])) == case["text"]
        except ValueError:
            is_canonical = False
        assert is_canonical == case["is_canonical"], case["name"]
    for case in EXPORTS["cases"]:
        try:
            count, wrong_at = independent.verify(lines_of(case))[0], None
        except ValueError as error:
            count, wrong_at = None, int(str(error).split(":")[0])
        assert (count, wrong_at) == (case.get("entries"), case.get("wrong_at")), case["name"]
    leaves = [bytes.fromhex(leaf) for leaf in MERKLE["hashes"]]
    for case in MERKLE["roots"]:
        assert independent_auditor.merkle_root(leaves[: case["size"]]).hex() == case["root"]


def test_the_independent_auditor_reads_heads() -> None:
    """The same for heads, by a reader that knows the format and `cryptography`."""
    good = [case for case in HEADS["cases"] if case["holds"]]
    assert [independent_auditor.signed(case["token"], HEADS["jwks"]) for case in good] == [
        case["payload"] for case in good
    ]
    for case in HEADS["cases"]:
        if case["name"] in (
            "signed by another key",
            "signed as a receipt",
            "with another payload",
            "with another signature",
        ):
            with pytest.raises(ValueError):  # noqa: PT011 (whichever comes first)
                independent_auditor.signed(case["token"], HEADS["jwks"])


def test_settlements_by_hand() -> None:
    """The same for settlements of releases of Gaussian noise: so many as were made, each of 1 / s² of mu²."""
    for case in SETTLEMENTS["cases"]:
        declared = case["mechanism"]
        if declared["type"] != "gaussian":
            continue
        once = Fraction(10**12, declared["noise_multiplier"] ** 2)
        made = declared["count"] if case["stop"] == "planned" else min(declared["count"], max(case["steps"], 1))
        assert int(case["charged"]["mu_sq_pico"]) == ceil(made * once), case["name"]
        beyond = max(0, case["steps"] - declared["count"])
        assert int(case.get("overrun", {"cost": {"mu_sq_pico": "0"}})["cost"]["mu_sq_pico"]) == ceil(beyond * once)
