"""Signed heads and proofs: what the server answers, and what an auditor makes of it with the public keys alone."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cachetools import LRUCache
from sqlalchemy import text

from ledger.access.keys import tenant_of
from ledger.errors import InvalidRequest, JournalBroken
from ledger.settings import Settings
from ledger.signer import heads as heads_module
from ledger.signer.heads import Heads, Tree
from ledger.verifier import jws, proofs, verify
from ledger.verifier.jws import PublicKeys, SignatureInvalid, SigningKey
from ledger.verifier.witness import Witnesses
from tests.kit import trees
from tests.kit.driver import Ledger, Terminal, past_the_ledger
from tests.kit.scene import ok

BATCH = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 1000}}


def grown(ledger: Ledger, count: int) -> None:
    """Adds so many entries to the journal of mnist."""
    for start in range(0, count, 500):
        runs = [{**BATCH, "idempotency_key": uuid4().hex} for _ in range(min(500, count - start))]
        ok(ledger.post("/v1/runs/batch", {"runs": runs}))


def jwks_of(ledger: Ledger) -> dict[str, Any]:
    """The public keys as anybody gets them."""
    found: dict[str, Any] = ok(ledger.client.get("/.well-known/jwks.json"))
    return found


def hashes_of(ledger: Ledger, name: str = "mnist") -> list[bytes]:
    """The hashes of a journal, from its export."""
    lines = ledger.get(f"/v1/datasets/{name}/export").text.split("\n")[1:-2]
    return [bytes.fromhex(json.loads(line)["hash"]) for line in lines]


def test_heads_are_signed(ledger: Ledger) -> None:
    """Goal: a head says whose journal it is, where that ends and what is in it, signed. Method: the signature by the
    published keys, the root by the entries of the export; of a dataset and of the tenant."""
    ledger.register()
    ledger.ask()
    keys = PublicKeys.of(jwks_of(ledger))
    for path, named in (("/v1/datasets/mnist", "dataset"), ("/v1", "tenant")):
        head = ok(ledger.get(f"{path}/head"))
        lines = ledger.get(f"{path}/export").text.split("\n")[:-1]
        leaves = [bytes.fromhex(json.loads(line)["hash"]) for line in lines[1:-1]]
        assert head["root"] == trees.root_of(leaves).hex()
        said = jws.read(head["signature"], keys=keys, typ=jws.HEAD)
        entry = json.loads(lines[-2])["entry"]
        assert said == {
            "v": 1,
            "type": "head",
            **{name: json.loads(lines[0])[name] for name in ("tenant", named)},
            **{name: head[name] for name in ("seq", "hash", "root")},
            "at": entry["at"],
        }
        assert json.loads(lines[-1]) == {"head": {name: head[name] for name in ("seq", "hash", "root", "signature")}}
        assert json.loads(lines[0])["keys"] == jwks_of(ledger)
        assert ok(ledger.get(f"{path}/head")) == head, "the same head is the same text"


def test_every_proof_of_a_small_journal(ledger: Ledger) -> None:
    """Goal: what the server proves holds, whatever it is asked, by the definition in the proofs' own tests. Method: all
    entries, sizes and earlier sizes of a journal, against proofs made from its export; and the tenant's own."""
    ledger.register()
    for _ in range(5):
        ledger.ask()
    leaves, head = hashes_of(ledger), ok(ledger.get("/v1/datasets/mnist/head"))
    for size in range(1, len(leaves) + 1):
        for seq in range(1, size + 1):
            proof = ok(ledger.get("/v1/datasets/mnist/proof", seq=seq, size=size))
            assert [bytes.fromhex(step) for step in proof["path"]] == trees.inclusion_proof(leaves[:size], seq - 1)
            assert (proof["hash"], proof["dataset"]) == (leaves[seq - 1].hex(), "mnist")
            assert proof["root"] == trees.root_of(leaves[:size]).hex()
            proof = ok(ledger.get("/v1/datasets/mnist/consistency", **{"from": seq, "to": size}))
            assert [bytes.fromhex(step) for step in proof["path"]] == trees.consistency_proof(leaves[:size], seq)
            assert proof["from_root"] == trees.root_of(leaves[:seq]).hex()
            assert {**proof["head"], "dataset": "mnist"} == head
    newest = ok(ledger.get("/v1/head"))
    proof = ok(ledger.get("/v1/proof", seq=1))
    assert (proof["tenant"], proof["size"], proof["head"]["signature"]) == ("acme", newest["seq"], newest["signature"])
    assert ok(ledger.get("/v1/consistency", **{"from": 1}))["to"] == newest["seq"]


def test_what_cannot_be_proved_is_named(ledger: Ledger) -> None:
    """Goal: a number that is out of range is refused, and the field named. Method: each, of both kinds of journal."""
    ledger.register()
    seq = ok(ledger.get("/v1/datasets/mnist/head"))["seq"]
    for base in ("/v1/datasets/mnist", "/v1"):
        seq = ok(ledger.get(f"{base}/head"))["seq"]
        for call, params, field in (
            ("proof", {}, "seq"),
            ("proof", {"seq": 0}, "seq"),
            ("proof", {"seq": "x"}, "seq"),
            ("proof", {"seq": 2**63}, "seq"),
            ("proof", {"seq": seq + 1}, "seq"),
            ("proof", {"seq": 1, "size": 0}, "size"),
            ("proof", {"seq": 1, "size": seq + 1}, "size"),
            ("proof", {"seq": seq + 1, "size": seq}, "seq"),
            ("consistency", {}, "from"),
            ("consistency", {"from": 0}, "from"),
            ("consistency", {"from": seq + 1}, "from"),
            ("consistency", {"from": 1, "to": seq + 1}, "to"),
        ):
            answer = ledger.get(f"{base}/{call}", **params)
            assert (answer.status_code, answer.json()["field"]) == (422, field), (call, params)
    assert ledger.get("/v1/datasets/other/proof", seq=1).status_code == 404


def test_long_journals(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: heads and proofs are the same however the tree is kept. Method: blocks of eight and pages of five, some
    hundred entries; random proofs from a tree that grew with the journal, and a head from one that is read anew."""
    monkeypatch.setattr(heads_module, "BLOCK_LEVEL", 3)
    monkeypatch.setattr(heads_module, "BLOCK", 8)
    monkeypatch.setattr(heads_module, "PAGE", 5)
    ledger.register()
    rng = random.Random(5)
    for count in (3, 40, 1, 90):
        grown(ledger, count)
        leaves = hashes_of(ledger)
        assert ok(ledger.get("/v1/datasets/mnist/head"))["root"] == trees.root_of(leaves).hex()
        for _ in range(10):
            size = rng.randint(1, len(leaves))
            seq = rng.randint(1, size)
            proof = ok(ledger.get("/v1/datasets/mnist/proof", seq=seq, size=size))
            assert [bytes.fromhex(step) for step in proof["path"]] == trees.inclusion_proof(leaves[:size], seq - 1)
            proof = ok(ledger.get("/v1/datasets/mnist/consistency", **{"from": seq, "to": size}))
            assert [bytes.fromhex(step) for step in proof["path"]] == trees.consistency_proof(leaves[:size], seq)
    served = ledger.client.app.state.services
    anew = Heads(served.store, served.signer)
    with served.store.reading(tenant_of(ledger.key)) as reading:
        assert anew.signed(reading, reading.datasets.by_name("mnist")) == {
            name: value for name, value in ok(ledger.get("/v1/datasets/mnist/head")).items() if name != "dataset"
        }
    named = [dataset and dataset.definition.name for dataset, _ in anew.of_tenant(tenant_of(ledger.key))]
    assert named == [None, "mnist"]


def test_trees_are_forgotten_and_read_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is kept of journals is bounded, and nothing depends on it. Method: room for two of four journals."""
    kept = LRUCache[Any, Tree](2)
    monkeypatch.setattr(ledger.client.app.state.services.heads, "_trees", kept)
    for name in ("a", "b", "c"):
        ledger.register(name=name)
    for _ in range(2):
        for path in ("/v1/datasets/a", "/v1/datasets/b", "/v1", "/v1/datasets/c"):
            assert ok(ledger.get(f"{path}/head"))["root"]
            assert len(kept) <= 2


def test_a_tree_grows_in_many_threads() -> None:
    """Goal: one tree for all threads that ask at once. Method: eight threads, each asks for roots of growing sizes."""
    leaves = [random.Random(seed).randbytes(32) for seed in range(3000)]
    tree, wrong = Tree(), []

    def read(after: int, limit: int) -> list[tuple[int, bytes]]:
        return [(seq + 1, leaves[seq]) for seq in range(after, min(after + limit, len(leaves)))]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(12):
            size = rng.randint(1, len(leaves))
            if tree.root(read, size=size) != trees.root_of(leaves[:size]):
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- a database that says otherwise later ----------------------------------------------------------------------------


def changed(settings: Settings, *statements: str) -> None:
    """Changes rows behind the ledger's back, with the triggers that keep entries out of the way."""
    engine = past_the_ledger(settings)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE entries DISABLE TRIGGER USER")
        else:
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            for name in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
                connection.exec_driver_sql(f"DROP TRIGGER {name[0]}")
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.mark.parametrize(
    ("statements", "seq"),
    [
        (["UPDATE datasets SET head = (SELECT hash FROM entries WHERE seq = 2)"], 4),
        (["DELETE FROM entries WHERE seq = 4"], 4),
        (["UPDATE entries SET hash = (SELECT hash FROM entries WHERE seq = 2) WHERE seq = 4"], 4),
        (["UPDATE entries SET body = '{}' WHERE seq = 4"], 4),
        (["UPDATE datasets SET seq = 9"], 5),
    ],
    ids=["head", "deleted", "hash", "body", "number"],
)
def test_a_database_that_contradicts_itself_gets_no_signature(
    ledger: Ledger, database: Settings, statements: list[str], seq: int
) -> None:
    """Goal: no head is signed that is not the newest entry's. Method: each way in which the two can differ; the error
    says where, the export goes out without a signature, and does not verify."""
    ledger.register()
    for _ in range(3):
        ledger.ask()
    changed(database, "DELETE FROM places", *statements)
    for call, params in (("head", {}), ("proof", {"seq": 1}), ("consistency", {"from": 1})):
        answer = ledger.get(f"/v1/datasets/mnist/{call}", **params)
        said = answer.json()
        assert (answer.status_code, said["code"], said.get("seq")) == (500, "journal-broken", seq), said
    lines = ledger.get("/v1/datasets/mnist/export").text.split("\n")[:-1]
    assert json.loads(lines[-1])["head"]["signature"] is None
    with pytest.raises(JournalBroken) as broken:
        verify.verify(lines)
    assert broken.value.seq in (seq, seq - 1)


def test_what_was_seen_is_believed(ledger: Ledger, database: Settings) -> None:
    """Goal: a server that has seen a history signs no other one. Method: the newest entry is written anew, with its
    hash in its row and the dataset's; no decision goes on from it either."""
    ledger.register()
    for _ in range(3):
        ledger.ask()
    head = ok(ledger.get("/v1/datasets/mnist/head"))
    body = "'{}'"
    digest = "x'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'"  # of {}
    if not database.is_sqlite:
        digest = digest.replace("x'", "'\\x")
    changed(
        database,
        "DELETE FROM places",
        f"UPDATE entries SET body = {body}, hash = {digest} WHERE seq = 4",
        f"UPDATE datasets SET head = {digest}",
    )
    answer = ledger.get("/v1/datasets/mnist/head")
    assert (answer.status_code, answer.json()["seq"]) == (500, head["seq"])
    assert "stood there before" in answer.json()["detail"]
    assert ledger.ask().json()["code"] == "journal-contradicted"
    assert ledger.get("/v1/datasets/mnist/head").json()["code"] == "journal-broken"


# --- checked by an auditor -------------------------------------------------------------------------------------------


class Auditor:
    """What an auditor got over time from a ledger: keys, receipts, heads."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.keys = PublicKeys.of(jwks_of(ledger))

    def holding(self, *, receipts: tuple[str, ...] = (), heads: tuple[str, ...] = ()) -> Witnesses:
        found = Witnesses()
        for number, receipt in enumerate(receipts):
            found.add_receipts(receipt, keys=self.keys, source=f"receipt {number}")
        for number, head in enumerate(heads):
            found.add_heads(head, keys=self.keys, source=f"head {number}")
        return found

    def get(self, path: str, **params: Any) -> str:
        answer = self.ledger.get(f"/v1/datasets/mnist/{path}", **params)
        assert answer.status_code == 200, answer.text
        return str(answer.text)


def test_an_auditor_with_a_receipt_and_a_head_needs_no_export(ledger: Ledger) -> None:
    """Goal: with a receipt and an old head, a few hashes show that the newest history contains both. Method: inclusion
    in the newest head and in the old one, and consistency; then proofs that say nothing of what is held."""
    ledger.register()
    auditor = Auditor(ledger)
    ledger.ask()
    run = ok(ledger.ask())
    old = auditor.get("head")
    started = ok(ledger.post(f"/v1/runs/{run['id']}/start"))
    grown(ledger, 20)
    receipt = started["receipt"]
    seq = next(each["seq"] for each in jws.read(receipt, keys=auditor.keys, typ=jws.RECEIPT)["datasets"])
    found = proofs.verify(
        auditor.get("proof", seq=seq), keys=auditor.keys, witnesses=auditor.holding(receipts=(receipt,))
    )
    assert (found.kind, found.seq, found.size, found.receipts) == ("inclusion", seq, 24, 1)
    consistent = auditor.get("consistency", **{"from": 3})
    found = proofs.verify(consistent, keys=auditor.keys, witnesses=auditor.holding(heads=(old,)))
    assert (found.kind, found.seq, found.size, found.tenant, found.dataset) == ("consistency", 3, 24, "acme", "mnist")
    within = auditor.get("proof", seq=2, size=3)
    assert proofs.verify(within, keys=auditor.keys, witnesses=auditor.holding(heads=(old,))).size == 3
    for text_, held, field in (
        (consistent, auditor.holding(), "head"),
        (within, auditor.holding(), "head"),
        (auditor.get("proof", seq=2), auditor.holding(receipts=(receipt,)), "receipt"),
        (consistent, auditor.holding(receipts=(receipt,), heads=(old,)), "receipt"),
        (auditor.get("proof", seq=2), auditor.holding(heads=(old,)), "head"),
        ("{}", auditor.holding(), "file"),
        ("[" * 100_000, auditor.holding(), "file"),
        ("x" * 2_000_000, auditor.holding(), "file"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            proofs.verify(text_, keys=auditor.keys, witnesses=held)
        assert refused.value.field == field
    others = PublicKeys.of({"keys": [SigningKey.generate().public_jwk()]})
    with pytest.raises(SignatureInvalid):
        proofs.verify(consistent, keys=others, witnesses=Witnesses())


def test_no_bent_answer_is_believed(ledger: Ledger, tries: Callable[[int, int], int]) -> None:
    """Goal: whatever is changed in a proof's answer, it is refused. Method: each of its numbers, hashes and texts,
    changed at random."""
    ledger.register()
    auditor = Auditor(ledger)
    grown(ledger, 12)
    old = auditor.get("head")
    grown(ledger, 9)
    rng = random.Random(3)
    for trial in range(tries(80, 3000)):
        is_inclusion = bool(trial % 2)
        text_ = auditor.get("proof", seq=7) if is_inclusion else auditor.get("consistency", **{"from": 13})
        held = auditor.holding(heads=() if is_inclusion else (old,))
        proofs.verify(text_, keys=auditor.keys, witnesses=held)
        said = json.loads(text_)
        where, name = said, rng.choice([*said, "path"])
        if name == "head":
            where, name = said["head"], "signature"
        if name == "dataset":
            continue  # the name beside it: what is believed is what the head says
        if name == "path":
            where, name = said["path"], rng.randrange(len(said["path"]))
        value = where[name]
        if isinstance(value, int):
            where[name] = value + rng.choice((-1, 1))
        elif name == "kind":
            where[name] = {"inclusion": "consistency", "consistency": "inclusion"}[value]
        else:
            at = rng.randrange(len(value))
            where[name] = value[:at] + rng.choice("0123456789abcdef".replace(value[at], "")) + value[at + 1 :]
        try:
            proofs.verify(json.dumps(said), keys=auditor.keys, witnesses=held)
        except (InvalidRequest, JournalBroken, SignatureInvalid):
            continue
        raise AssertionError(f"{name} was changed, and the proof believed")


def test_proofs_on_the_command_line(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: the commands fetch and check what the calls answer. Method: keys, head and receipt in files, the server
    asked for two proofs, both checked; a head of another history, and what cannot be asked for."""
    terminal("dataset create mnist --mu 3 --bound clt --size 60000")
    asked = terminal("request mnist --type gaussian --noise-multiplier 5 --json").json
    (tmp_path / "receipt").write_text(asked["receipt"])
    terminal(f"jwks --output {tmp_path / 'jwks.json'}")
    terminal("dataset freeze mnist --reason look")
    (tmp_path / "inclusion.json").write_text(terminal("proof inclusion mnist 2").out)
    told = terminal("proof verify inclusion.json --jwks jwks.json --receipt receipt --json")
    assert (told.status, told.json["seq"], told.json["receipts"]) == (0, 2, 1)
    assert "is among the first 3" in terminal("proof verify inclusion.json --jwks jwks.json --receipt receipt").out
    (tmp_path / "head.json").write_text(json.dumps(terminal("proof inclusion mnist 1").json["head"]))
    terminal("dataset thaw mnist --reason looked")
    assert terminal("proof consistency mnist 3 --output consistency.json --json").json["kind"] == "consistency"
    told = terminal("proof verify consistency.json --jwks jwks.json --head head.json")
    assert (told.status, "begins with that of 3" in told.out) == (0, True)
    said = json.loads((tmp_path / "consistency.json").read_text())
    said["path"][0] = "00" * 32
    (tmp_path / "bent.json").write_text(json.dumps(said))
    told = terminal("proof verify bent.json --jwks jwks.json --head head.json --json")
    assert (told.status, told.json["holds"], told.json["seq"]) == (1, False, 3)
    assert terminal("proof verify consistency.json --jwks jwks.json").status == 2
    assert terminal("proof inclusion --tenant 1 --json").json["tenant"] == "acme"
    assert terminal("proof consistency --tenant 1 2").json["to"] == 2
    for words in ("inclusion mnist", "inclusion mnist x", "consistency mnist 1 2 3", "inclusion mnist 99"):
        assert terminal(f"proof {words}").status == 2, words
