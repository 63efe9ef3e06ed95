"""An auditor with an export and the public keys alone recomputes what the ledger says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.verifier import jws
from tests.kit import independent_auditor
from tests.kit.driver import MNIST, Ledger
from tests.kit.scene import ok

AUDITOR = Path(__file__).parents[1] / "kit" / "independent_auditor.py"


def lived(ledger: Ledger) -> None:
    """Two datasets with runs of every state, a project, partitions, fair use and an overrun."""
    ledger.register(budget={"mu": 1, "delta": 5e-7}, bound="certified")
    ok(ledger.put("/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 0.8, "delta": 5e-7}}))
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"held": {"mu": 0.9, "delta": 5e-7}, "reason": "for all"}))
    ledger.ask({"type": "gaussian", "noise_multiplier": 1})  # refused
    runs = [ok(ledger.ask(project="ranking" if n % 2 else None))["id"] for n in range(5)]
    for run in runs[:3]:
        ok(ledger.post(f"/v1/runs/{run}/start"))
    ok(ledger.post(f"/v1/runs/{runs[0]}/settle"))
    ok(ledger.post(f"/v1/runs/{runs[3]}/void", {"reason": "not needed"}))
    ok(ledger.post("/v1/datasets", {**MNIST, "name": "parts", "partitions": ["a", "b"]}))
    for partitions in (["a"], ["a", "b"]):
        ok(ledger.ask(datasets=[{"name": "parts", "partitions": partitions}]))
    ok(ledger.post("/v1/datasets/parts/partitions", {"names": ["c"], "disjoint": True}))


def exact(balance: dict[str, Any]) -> dict[str, Any]:
    """The integers of a balance as the API shows it."""
    return {part: {name: amount[name] for name in ("mu_sq_pico", "delta_atto")} for part, amount in balance.items()}


def test_the_auditor_recomputes_what_the_ledger_says(ledger: Ledger, tmp_path: Path) -> None:
    """Goal: with the export, the public keys and docs/reference/export.md, somebody else's code comes to the same
    totals. Method: that code, in a process of its own, against the balances, projects, partitions, runs and head of
    the API."""
    lived(ledger)
    (tmp_path / "jwks.json").write_text(ledger.client.get("/.well-known/jwks.json").text)
    for name in ("mnist", "parts"):
        export = tmp_path / f"{name}.jsonl"
        export.write_text(ledger.get(f"/v1/datasets/{name}/export").text)
        command = [sys.executable, "-I", str(AUDITOR), str(export), "jwks.json"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        found, shown = json.loads(told.stdout), ok(ledger.get(f"/v1/datasets/{name}"))
        head = ok(ledger.get(f"/v1/datasets/{name}/head"))
        assert {part: found[part] for part in ("seq", "hash", "root")} == {
            part: head[part] for part in ("seq", "hash", "root")
        }
        without = {part: amount for part, amount in found["balances"][""].items() if part != "overdrawn"}
        assert without == exact(shown["balance"])
        for project in shown["projects"]:
            mine = found["balances"][project["name"]]
            assert {part: mine[part] for part in project["balance"]} == exact(project["balance"])
        of_partitions = {each["partition"]: each for each in found["accounts"] if each["project"] is None}
        for partition in shown["partitions"] or ():
            mine = of_partitions[partition["name"]]
            assert {part: mine[part] for part in partition["balance"]} == exact(partition["balance"])
        states = [run["state"] for run in ok(ledger.get("/v1/runs", dataset=name, limit=1000))["items"]]
        assert found["runs"] == {state: states.count(state) for state in set(states)}


def balance_of(mine: dict[str, Any]) -> dict[str, Any]:
    """The auditor's amounts by the names that a report has for them."""
    return {**{part: mine[part] for part in ("limit", "spent", "held")}, "left": mine["remaining"]}


def test_the_auditor_recomputes_the_report(ledger: Ledger) -> None:
    """Goal: the totals of the audit report, and what it says of attacks, are what somebody else's code makes of the
    export. Method: exact integers, and epsilons and rates to nine digits; heads and signatures to the letter."""
    lived(ledger)
    ok(ledger.post(f"/v1/runs/{ok(ledger.get('/v1/runs', state='started'))['items'][0]['id']}/settle"))
    jwks = ok(ledger.client.get("/.well-known/jwks.json"))
    report = ok(ledger.get("/v1/report"))
    assert [each["name"] for each in report["datasets"]] == ["mnist", "parts"]
    for told in report["datasets"]:
        lines = ledger.get(f"/v1/datasets/{told['name']}/export").text.split("\n")[:-1]
        mine = independent_auditor.audited(lines, jwks)
        assert exact(told["balance"]) == balance_of(mine["balances"][""])
        assert {part: told["totals"].get(part, 0) for part in ("refused", "settled", "voided")} == {
            part: mine["runs"].get(part, 0) for part in ("refused", "settled", "voided")
        }
        assert told["totals"]["runs"] == sum(mine["runs"].values())
        assert exact({part: told["totals"][part] for part in ("charged", "returned")}) == {
            part: mine[part] for part in ("charged", "returned")
        }
        for part in ("spent", "limit"):
            for each in told["epsilon"]:
                assert each[part] == pytest.approx(mine["disclosed"][part]["epsilon"][str(each["delta"])], rel=1e-9)
            for each in told["attack"][part]["true_positive_rates"]:
                rate = mine["disclosed"][part]["rates"][str(each["false_positive_rate"])]
                assert each["true_positive_rate"] == pytest.approx(rate, rel=1e-9)
        accounts = {
            (each["account"].get("partition"), each["account"].get("project"), each["account"].get("principal")): exact(
                {part: each[part] for part in ("limit", "spent", "held", "overdrawn", "left")}
            )
            for each in report["accounts"]
            if each["dataset"] == told["name"]
        }
        assert accounts == {
            (each["partition"], each["project"], each["principal"]): balance_of(each) | {"overdrawn": each["overdrawn"]}
            for each in mine["accounts"]
        }
        (head,) = [each for each in report["heads"] if each["dataset"] == told["name"]]
        signature = json.loads(lines[-1])["head"]["signature"]
        assert [head[part] for part in ("seq", "hash", "root", "signature")] == [
            *(mine[part] for part in ("seq", "hash", "root")),
            signature,
        ]


def test_the_auditor_imports_nothing_of_ours() -> None:
    """Goal: the agreement above means something. Method: the imports of all its files."""
    beside = {"independent_verifier", "independent_members", "independent_levels", "independent_reading"}
    beside |= {"independent_corrections", "independent_past"}
    for file in (AUDITOR, *(AUDITOR.with_name(f"{name}.py") for name in beside)):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names | {"cryptography"} | beside, name


def test_the_auditor_finds_what_is_wrong(ledger: Ledger) -> None:
    """Goal: that auditor is no rubber stamp. Method: another root, signature, key, name and number."""
    ledger.register()
    ledger.ask()
    lines = ledger.get("/v1/datasets/mnist/export").text.split("\n")[:-1]
    jwks = ok(ledger.client.get("/.well-known/jwks.json"))
    independent_auditor.audited(lines, jwks)
    head = json.loads(lines[-1])["head"]
    other = jws.SigningKey.generate()
    forged = jws.sign(json.dumps({"seq": 2}), key=other, typ=jws.HEAD)
    for changed, keys in (
        ([*lines[:-1], lines[-1].replace(head["root"], "00" * 32)], jwks),
        ([*lines[:-1], lines[-1].replace(head["signature"], forged)], {"keys": [other.public_jwk()]}),
        ([lines[0].replace('"acme"', '"another"'), *lines[1:]], jwks),
        (lines, {"keys": [{**jwks["keys"][0], "x": other.public_jwk()["x"]}]}),
        (lines, {"keys": [other.public_jwk()]}),
    ):
        with pytest.raises(ValueError, match=r"head|signature|values"):
            independent_auditor.audited(changed, keys)
