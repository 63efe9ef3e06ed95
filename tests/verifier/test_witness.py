"""What an auditor kept, against exports and the database: by the functions, and by the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.core.journal import chain
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier import jws, verify
from ledger.verifier.jws import PublicKeys, SigningKey
from ledger.verifier.witness import Witnesses
from tests.kit.driver import Ledger, Terminal
from tests.kit.scene import ok
from tests.operate.test_tampering import rechained, renamed, resigned
from tests.signer.test_heads import jwks_of


def lines_of(ledger: Ledger, path: str = "/v1/datasets/mnist") -> list[str]:
    """The lines of an export."""
    return list(ledger.get(f"{path}/export").text.split("\n")[:-1])


def as_version_1(lines: list[str]) -> list[str]:
    """The export as the version before wrote it."""
    header, head = json.loads(lines[0]), json.loads(lines[-1])["head"]
    del header["keys"]
    written = {**header, "version": 1}
    last = {"head": {"seq": head["seq"], "hash": head["hash"]}}
    compact = [json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in (written, last)]
    return [compact[0], *lines[1:-1], compact[1]]


def test_exports_of_version_1_verify_and_are_called_unsigned(ledger: Ledger) -> None:
    """Goal: what was exported before still verifies, and is never taken for signed. Method: an export as it was written
    then, alone, with keys, and with a head that was kept; and versions with each other's parts."""
    ledger.register()
    ledger.ask()
    keys = PublicKeys.of(jwks_of(ledger))
    new = lines_of(ledger)
    old = as_version_1(new)
    assert verify.verify(old).vouched.kid is None
    signed = verify.verify(new, keys=keys).vouched
    assert (signed.kid, signed.is_trusted) == (next(iter(keys.kids)), True)
    assert not verify.verify(new).vouched.is_trusted
    held = Witnesses()
    held.add_heads(ledger.get("/v1/datasets/mnist/head").text, keys=keys, source="kept")
    assert verify.verify(old, witnesses=held).vouched.heads == 1
    with pytest.raises(JournalBroken, match="is not signed"):
        verify.verify(old, keys=keys)
    for mixed in ([old[0], *new[1:]], [new[0], *old[1:]]):
        with pytest.raises(JournalBroken, match="cannot be read"):
            verify.verify(mixed)
    with pytest.raises(JournalBroken, match="None of these keys"):
        verify.verify(new, keys=PublicKeys.of({"keys": [SigningKey.generate().public_jwk()]}))
    with pytest.raises(JournalBroken, match="no keys") as broken:
        verify.verify([new[0].replace('"keys":{"keys":', '"keys":{"other":'), *new[1:]])
    assert broken.value.seq == 0


def test_a_head_of_something_else_does_not_sign_an_export(ledger: Ledger) -> None:
    """Goal: a signature that holds is that of this head, or the export does not hold. Method: signed statements of the
    same key about another size, dataset and kind, in the place of the head's."""
    ledger.register()
    ledger.register(name="other")
    old = ok(ledger.get("/v1/datasets/mnist/head"))["signature"]
    receipt = ok(ledger.ask())["receipt"]
    lines = lines_of(ledger)
    said = json.loads(lines[-1])["head"]["signature"]
    for token, told in (
        (old, "another head"),
        (ok(ledger.get("/v1/datasets/other/head"))["signature"], "another journal"),
        (receipt, "its typ names"),
        (said[:-4] + "AAAA", "signature"),
    ):
        with pytest.raises(JournalBroken, match=told):
            verify.verify([*lines[:-1], lines[-1].replace(said, token)])


def test_what_is_held_of_another_journal_is_no_use(ledger: Ledger) -> None:
    """Goal: nobody believes that a receipt was found because it was never looked for. Method: heads and an export of
    another dataset; what is no token, no signed one, and no file of ours."""
    ledger.register()
    ledger.register(name="other")
    keys = PublicKeys.of(jwks_of(ledger))
    held = Witnesses()
    held.add_heads(ledger.get("/v1/datasets/other/head").text, keys=keys, source="other.json")
    with pytest.raises(InvalidRequest, match=r"other\.json: is of another journal"):
        verify.verify(lines_of(ledger), witnesses=held)
    with pytest.raises(InvalidRequest, match="another journal"):
        verify.verify(lines_of(ledger), earlier=lines_of(ledger, "/v1/datasets/other"))
    with pytest.raises(InvalidRequest, match="not an export"):
        verify.verify(lines_of(ledger), earlier=["{}"])
    with pytest.raises(InvalidRequest, match="does not verify itself at entry 1"):
        verify.verify(lines_of(ledger), earlier=[line.replace("mnist", "minst") for line in lines_of(ledger)])
    for text in ("x", "{}", '{"signature": 1}', "[" * 1000, "a.b.c"):
        with pytest.raises((InvalidRequest, jws.SignatureInvalid)):
            Witnesses().add_heads(text, keys=keys, source="a file")


@pytest.mark.parametrize("state", ["held", "started"])
def test_a_receipt_has_to_say_what_the_entry_says(ledger: Ledger, state: str) -> None:
    """Goal: a receipt that the ledger's own key signed vouches for nothing that the journal does not say. Method: a
    true one, and the same with another cost, mechanism, run and state, each named by the entry's number."""
    ledger.register()
    asked = ok(ledger.ask())
    other = ok(ledger.ask())["id"]
    started = ok(ledger.post(f"/v1/runs/{asked['id']}/start"))
    lines, keys = lines_of(ledger), PublicKeys.of(jwks_of(ledger))
    true = jws.read((asked if state == "held" else started)["receipt"], keys=keys, typ=jws.RECEIPT)
    cost = {**true["cost"], "mu_sq_pico": str(int(true["cost"]["mu_sq_pico"]) - 1)}
    for bent, told in (
        ({}, None),
        ({"cost": cost}, "another cost or mechanism"),
        ({"mechanism": {**true["mechanism"], "digest": "0" * 64}}, "another cost or mechanism"),
        ({"run": other}, "differs from"),
        ({"state": "held" if state == "started" else "started"}, "differs from"),
    ):
        said = chain.canonical({**true, **bent})
        held = Witnesses()
        held.add_receipts(
            ledger.client.app.state.services.signer.sign(said, jws.RECEIPT), keys=keys, source="a receipt"
        )
        if told is None:
            verify.verify(lines, witnesses=held)
            continue
        with pytest.raises(JournalBroken, match=told) as broken:
            verify.verify(lines, witnesses=held)
        assert broken.value.seq == true["datasets"][0]["seq"]


def test_receipts_and_heads_on_the_command_line(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: an auditor with files and two commands. Method: keys, receipts, head and export kept early; a later export
    and the database checked against them, then an unsigned one, and one that was rewritten and signed anew."""
    terminal("dataset create mnist --mu 3 --bound clt --size 60000")
    run = terminal("request mnist --type gaussian --noise-multiplier 5 --json").json
    (tmp_path / "held.receipt").write_text(run["receipt"])
    (tmp_path / "run.json").write_text(terminal(f"start {run['id']} --json").out)
    terminal("export mnist --output early.jsonl")
    terminal("jwks --output jwks.json")
    (tmp_path / "head.json").write_text(json.dumps(terminal("proof inclusion mnist 1").json["head"]))
    terminal("dataset freeze mnist --reason look")
    terminal("export mnist --output late.jsonl")
    kept = "--jwks jwks.json --receipt run.json --receipt held.receipt --head head.json"
    told = terminal(f"verify late.jsonl {kept} --earlier early.jsonl --json")
    assert (told.status, told.json["contains"], told.json["is_trusted"]) == (
        0,
        {"heads": 1, "receipts": 2, "earlier": 3},
        True,
    )
    said = terminal(f"verify late.jsonl {kept} --earlier early.jsonl").out
    assert "one of the keys you gave" in said
    assert "2 receipts, 1 earlier head, 3 entries of the earlier export" in said
    assert "a key from the export itself" in terminal("verify late.jsonl --head head.json").out
    assert terminal(f"check {kept} --json").json["holds"] is True
    lines = (tmp_path / "late.jsonl").read_text().split("\n")[:-1]
    (tmp_path / "v1.jsonl").write_text("\n".join(as_version_1(lines)) + "\n")
    assert "exports of version 1 are not signed" in terminal("verify v1.jsonl").out
    assert terminal("verify v1.jsonl --jwks jwks.json").status == 1
    forged = resigned(rechained(lines, 2, renamed), SigningKey.generate())
    (tmp_path / "forged.jsonl").write_text("\n".join(forged) + "\n")
    assert terminal("verify forged.jsonl --unsigned").status == 0, "by its own keys alone it adds up"
    told = terminal(f"verify forged.jsonl {kept} --json")
    assert (told.status, told.json["seq"], told.json["after"]) == (1, 2, 0)
    assert "entry 2" in terminal(f"verify forged.jsonl {kept}").err
    told = terminal("verify forged.jsonl --earlier early.jsonl --json")
    assert (told.json["seq"], told.json["after"]) == (2, 1)
    for line in (
        "verify late.jsonl --jwks missing.json",
        "verify late.jsonl --jwks head.json",
        "verify late.jsonl --receipt missing",
        "verify late.jsonl --head late.jsonl",
        "verify v1.jsonl --head head.json",
        "check --heads-dir nowhere",
        "check --head late.jsonl",
    ):
        assert terminal(line).status == 2, line
