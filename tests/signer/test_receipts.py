"""Receipts: what a decision says of itself, signed, and who is let in by it.

Signatures and claims are checked by a verifier of the tests' own, which has `cryptography`'s primitives and `json`, and
nothing of the ledger.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.testclient import TestClient

from ledger.api.app import create_app
from ledger.canonical import parse
from ledger.client import (
    DPSGD,
    Gaussian,
    OtherDataset,
    OtherMechanism,
    OtherRun,
    OtherTenant,
    Receipt,
    ReceiptExpired,
    ReceiptForged,
    ReceiptNotStarted,
    ReceiptRejected,
    verify_receipt,
)
from ledger.client import Ledger as Client
from ledger.client.files import open_files
from ledger.client.receipts import mechanism_digest
from ledger.errors import InvalidRequest, Misconfigured
from ledger.settings import Settings
from ledger.signer import keyfile
from ledger.signer.receipts import payload
from ledger.verifier.jws import HEAD, RECEIPT, SigningKey, sign
from tests.conftest import Templates
from tests.kit.driver import RELEASE, Ledger, Terminal
from tests.kit.scene import REASON, another_tenant, ok

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "require_receipt.py"


# --- a verifier that knows nothing of the ledger ---------------------------------------------------------------------


def un64(text: str) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read(token: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    """What a receipt says, by docs/reference/receipts.md. Raises InvalidSignature, KeyError, ValueError."""
    header, payload, signature = token.split(".")
    head = json.loads(un64(header))
    if head.keys() != {"alg", "kid", "typ"} or (head["alg"], head["typ"]) != ("EdDSA", "privacy-ledger-receipt+jws"):
        raise ValueError(head)
    (key,) = [key for key in jwks["keys"] if key["kid"] == head["kid"]]
    Ed25519PublicKey.from_public_bytes(un64(key["x"])).verify(un64(signature), f"{header}.{payload}".encode())
    said: dict[str, Any] = json.loads(un64(payload))
    # Canonical JSON of what has no fractions: names in order, no white space.
    assert un64(payload).decode() == json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return said


def keys_of(ledger: Ledger) -> dict[str, Any]:
    """The keys, as anyone gets them without a key."""
    found: dict[str, Any] = ledger.client.get("/.well-known/jwks.json").json()
    return found


def entries_of(ledger: Ledger, dataset: str = "mnist") -> dict[int, dict[str, Any]]:
    """A dataset's journal, by number: what an auditor has."""
    items = ledger.get(f"/v1/datasets/{dataset}/entries", limit=1000).json()["items"]
    return {item["seq"]: item for item in items}


# --- what a receipt says ---------------------------------------------------------------------------------------------


def test_a_receipt_says_what_the_journal_says(ledger: Ledger) -> None:
    """Goal: each fact of an approval's and of a start's receipt is the journal's, and the entry it names is there with
    that hash. Method: a verifier of our own, against the entries that an auditor reads."""
    ledger.register()
    approval = ok(ledger.ask({"type": "gaussian", "noise_multiplier": 10.50, "count": 2}))
    start = ok(ledger.post(f"/v1/runs/{approval['id']}/start"))
    keys, journal = keys_of(ledger), entries_of(ledger)
    held, started = (read(answer["receipt"], keys) for answer in (approval, start))
    for said, answer, kind, until in (
        (held, approval, "run-approved", "start_by"),
        (started, start, "run-started", "settle_by"),
    ):
        (place,) = said["datasets"]
        item = journal[place["seq"]]
        entry = item["entry"]
        assert entry["kind"] == kind
        assert place["hash"] == item["hash"]
        assert (said["run"], said["at"], said["tenant"]["id"]) == (entry["run"], entry["at"], entry["tenant"])
        assert (place["name"], place["id"]) == ("mnist", entry["dataset_id"])
        assert said[until] == entry[until] == answer[until]
        assert said["begin_by"] == entry["begin_by"]
        assert seconds_of(said["at"], said["begin_by"]) == 3600
        assert said["state"] == answer["state"]
        assert (said["v"], said["type"], said["decision"]) == (2, "receipt", "approved")
        assert said["tenant"]["name"] == "acme"
        assert said["cost"] == {name: answer["cost"][name] for name in ("mu_sq_pico", "delta_atto")}
        assert "project" not in said
        assert "partitions" not in place
        mechanism = '{"count":2,"noise_multiplier":10.5,"type":"gaussian"}'
        assert said["mechanism"] == {
            "type": "gaussian",
            "digest": hashlib.sha256(mechanism.encode()).hexdigest(),
        }
    assert held["datasets"] != started["datasets"]
    assert start["begin_by"] == started["begin_by"]
    # Whoever has an export can make both again.
    lines = map(parse, ledger.get("/v1/datasets/mnist/export").text.splitlines())
    entries = {line["entry"]["kind"]: line["entry"] for line in lines if "entry" in line}
    decided, begun = entries["run-approved"], entries["run-started"]
    assert payload([decided], [decided], tenant="acme") == held
    assert payload([decided], [begun], tenant="acme") == started
    with pytest.raises(ValueError, match="no receipt"):
        payload([decided], [entries["dataset-registered"]], tenant="acme")


def test_a_receipt_of_several_datasets(ledger: Ledger) -> None:
    """Goal: every dataset that a run charges is in its receipt, in the answer's order, with the partitions that were
    charged; and its project."""
    budget = {"mu": 9, "delta": 1e-3}
    for name in ("clicks", "views"):
        ledger.register(name=name, partitions=["a", "b", "c"], budget=budget)
    origin = [{"name": "clicks", "unit_preserving": True}]
    ok(ledger.post("/v1/datasets", {"name": "no-bots", "derived_from": origin}))
    for name in ("views", "clicks"):
        ok(ledger.put(f"/v1/datasets/{name}/projects/ranking", {"budget": budget}))
    uses = [{"name": "no-bots", "partitions": ["b", "a"]}, "views"]
    answer = ok(ledger.ask(datasets=uses, project="ranking"))
    said = read(ok(ledger.post(f"/v1/runs/{answer['id']}/start"))["receipt"], keys_of(ledger))
    places = [(place["name"], place.get("partitions")) for place in said["datasets"]]
    assert places == [("no-bots", ["a", "b"]), ("views", ["a", "b", "c"]), ("clicks", ["a", "b"])]
    assert [place["name"] for place in answer["datasets"]] == [name for name, _ in places]
    assert said["project"] == "ranking"
    for place in said["datasets"]:
        assert entries_of(ledger, place["name"])[place["seq"]]["hash"] == place["hash"]


def test_a_receipt_comes_again(ledger: Ledger) -> None:
    """Goal: the same question gets the same receipt, letter by letter: by idempotency key, by a repeated start."""
    ledger.register()
    first = ok(ledger.ask(key="k"))
    path = f"/v1/runs/{first['id']}"
    assert ok(ledger.ask(key="k")) == first
    started = ok(ledger.post(f"{path}/start"))
    assert ok(ledger.post(f"{path}/start")) == started
    assert started["receipt"] != first["receipt"]
    ok(ledger.post(f"{path}/settle"))
    assert ok(ledger.ask(key="k")) == first


def test_a_receipt_is_renewed(ledger: Ledger) -> None:
    """Goal: while a run is held or started, reading its receipt gives a new one, from now on good for as long as the
    first one was, and the same in all else; a repeated request or start still has the first one."""
    ledger.register()
    first = ok(ledger.ask(key="k"))
    path, keys = f"/v1/runs/{first['id']}", keys_of(ledger)
    started: dict[str, Any] = {}
    for state in ("held", "started"):
        given = read((started or first)["receipt"], keys)
        renewed = [ok(ledger.get(f"{path}/receipt")) for _ in range(2)]
        ends = [given["begin_by"], *(answer["begin_by"] for answer in renewed)]
        assert ends[0] < ends[1] < ends[2]
        for answer in renewed:
            assert answer.keys() == {"run", "state", "begin_by", "receipt"}
            assert (answer["run"], answer["state"]) == (first["id"], state)
            assert read(answer["receipt"], keys) == {**given, "begin_by": answer["begin_by"]}
        started = ok(ledger.post(f"{path}/start"))
    assert ok(ledger.ask(key="k")) == first
    assert ok(ledger.post(f"{path}/start")) == started


def test_how_long_a_job_may_begin(database: Settings) -> None:
    """Goal: the setting decides, and never lets a job begin after the approval or the run is due; what was recorded
    stays as it was under another setting. Method: two servers with other settings on one database."""
    limited, patient = (database.model_copy(update={"begin_within_seconds": seconds}) for seconds in (90, 30 * 86_400))
    with Ledger.open(limited) as ledger:
        ledger.register()
        first = ok(ledger.ask(key="k"))
        path, keys = f"/v1/runs/{first['id']}", keys_of(ledger)
        held, started = read(first["receipt"], keys), ok(ledger.post(f"{path}/start"))
        assert seconds_of(held["at"], held["begin_by"]) == seconds_of(started["at"], started["begin_by"]) == 90
        key = ledger.key
    with TestClient(create_app(patient)) as client:
        ledger = Ledger(client, key)
        assert ok(ledger.ask(key="k")) == first
        assert ok(ledger.post(f"{path}/start")) == started
        assert ok(ledger.get(f"{path}/receipt"))["begin_by"] == started["settle_by"]
        brief = read(ok(ledger.ask(valid_for="PT1M"))["receipt"], keys_of(ledger))
        assert brief["begin_by"] == brief["start_by"]
        assert seconds_of(brief["at"], brief["begin_by"]) == 60


def seconds_of(begin: str, end: str) -> float:
    """How long it is from one time to the other."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def test_what_has_no_receipt(ledger: Ledger) -> None:
    """Goal: a run that was refused, voided or settled has none, whether it had one before or not; nor has a run that is
    not. Whoever reads the error learns which run, why, and what to do."""
    ledger.register()
    refused = ledger.ask({"type": "gaussian", "noise_multiplier": 0.5})
    assert "receipt" not in refused.json()
    held, started, settled = (ok(ledger.ask())["id"] for _ in range(3))
    for run in (started, settled):
        ok(ledger.post(f"/v1/runs/{run}/start"))
    assert "receipt" not in ok(ledger.post(f"/v1/runs/{settled}/settle"))
    for run in (held, started):
        assert "receipt" not in ok(ledger.post(f"/v1/runs/{run}/void", REASON))
    for run, state in (
        (refused.json()["run"], "refused"),
        (held, "voided"),
        (started, "voided"),
        (settled, "settled"),
    ):
        answer = ledger.get(f"/v1/runs/{run}/receipt")
        assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "run-state", state)
        for part in (f"Run {run} is {state}.", "Only held and started runs have a receipt", "ask for a new run"):
            assert part in answer.json()["detail"]
    answer = ledger.get("/v1/runs/00000000-0000-0000-0000-000000000001/receipt")
    assert answer.json()["code"] == "not-found"


def test_receipts_of_a_batch(ledger: Ledger) -> None:
    """Goal: each approval of a batch has its own receipt, and a refusal has none; asked again they are the same."""
    ledger.register()
    large = {**RELEASE, "mechanism": {"type": "gaussian", "noise_multiplier": 0.5}, "idempotency_key": "large"}
    runs = [large, *({**RELEASE, "idempotency_key": f"run-{number}"} for number in range(3))]
    first, again = (ok(ledger.post("/v1/runs/batch", {"runs": runs}))["results"] for _ in range(2))
    assert "receipt" not in json.dumps(first[0])
    keys = keys_of(ledger)
    for one, other in zip(first[1:], again[1:], strict=True):
        assert read(one["run"]["receipt"], keys)["run"] == one["run"]["id"]
        assert one["run"] == other["run"]


def test_one_tenants_receipt_is_not_anothers(ledger: Ledger) -> None:
    """Goal: tenants share the keys and can give datasets the same name; the tenant in the receipt tells them apart."""
    ledger.register()
    other = another_tenant(ledger)
    other.register()
    theirs = ok(other.post(f"/v1/runs/{ok(other.ask())['id']}/start"))["receipt"]
    keys = keys_of(ledger)
    assert verify_receipt(theirs, jwks=keys, datasets="mnist").tenant == "globex"
    for named in ("acme", str(ledger.get("/v1/me").json()["tenant"]["id"])):
        with pytest.raises(OtherTenant):
            verify_receipt(theirs, jwks=keys, datasets="mnist", tenant=named)
    theirs_id = other.get("/v1/me").json()["tenant"]["id"]
    for named in ("globex", theirs_id, theirs_id.upper()):
        assert verify_receipt(theirs, jwks=keys, tenant=named).tenant_id == theirs_id


# --- who is let in ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Receipts of one ledger, before and after its key was changed, and the keys afterwards."""

    jwks: dict[str, Any]
    jwks_before: dict[str, Any]
    run: str
    held: str
    started: str
    voided: str
    of_parts: str
    before: str
    key: SigningKey
    said: dict[str, Any]

    def of_partitions(self, items: Any) -> str:
        """A receipt that lists these partitions."""
        return self.signed(datasets=[{**self.said["datasets"][0], "partitions": items}])

    def signed(self, typ: str = RECEIPT, **changes: Any) -> str:
        """A statement by the ledger's own key that no ledger made."""
        said = {name: value for name, value in {**self.said, **changes}.items() if value is not None}
        return sign(json.dumps(said), key=self.key, typ=typ)


@pytest.fixture(scope="module")
def scene(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The receipts, made once: checking them takes no database."""
    folder = tmp_path_factory.mktemp("receipts")
    with templates.clone("sqlite", folder) as settings:
        yield made(settings, folder)


def made(settings: Settings, folder: Path) -> Scene:
    """A ledger whose key was rotated between its first run and its others."""
    with Ledger.open(settings) as ledger:
        ledger.register()
        first = ok(ledger.ask(key="first"))
        before = ok(ledger.post(f"/v1/runs/{first['id']}/start"))["receipt"]
        key, jwks_before = ledger.key, keys_of(ledger)
    keyfile.rotate(settings)
    with TestClient(create_app(settings)) as client:
        admin = Ledger(client, key)
        admin.register(name="clicks", partitions=["a", "b"])
        parts = ok(admin.ask(datasets=[{"name": "clicks", "partitions": ["a"]}]))["id"]
        run, void = (ok(admin.ask())["id"] for _ in range(2))
        voided = ok(admin.get(f"/v1/runs/{void}/receipt"))["receipt"]
        ok(admin.post(f"/v1/runs/{void}/void", REASON))
        held = ok(admin.get(f"/v1/runs/{run}/receipt"))["receipt"]
        started = ok(admin.post(f"/v1/runs/{run}/start"))["receipt"]
        of_parts = ok(admin.post(f"/v1/runs/{parts}/start"))["receipt"]
        jwks = keys_of(admin)
        # Asked again, each says the same as before, signed by the key of now.
        for old, again in (
            (before, ok(admin.get(f"/v1/runs/{first['id']}/receipt"))["receipt"]),
            (before, ok(admin.post(f"/v1/runs/{first['id']}/start"))["receipt"]),
            (first["receipt"], ok(admin.ask(key="first"))["receipt"]),
        ):
            renewed = {"begin_by": read(again, jwks)["begin_by"]}
            assert {**read(old, jwks), **renewed} == read(again, jwks)
            assert json.loads(un64(again.split(".")[0]))["kid"] == jwks["keys"][0]["kid"] != jwks["keys"][1]["kid"]
    pem = (folder / "ledger.db.signing-key.pem").read_text()
    said = read(started, jwks)
    return Scene(jwks, jwks_before, run, held, started, voided, of_parts, before, SigningKey.from_pem(pem), said)


def test_what_a_receipt_is_read_as(scene: Scene) -> None:
    """Goal: the function gives back what the receipt says, in types. Method: against our own reading."""
    demands: dict[str, Any] = {"tenant": "acme", "datasets": ["mnist"], "run": scene.run.upper()}
    found = verify_receipt(scene.started, jwks=scene.jwks, mechanism=RELEASE["mechanism"], **demands)
    assert isinstance(found, Receipt)
    said = scene.said
    assert (found.version, found.run, found.state, found.project) == (2, scene.run, "started", None)
    ends = (found.begin_by.isoformat(), found.due.isoformat())
    assert ends == tuple(scene.said[name].replace("Z", "+00:00") for name in ("begin_by", "settle_by"))
    assert found.at.isoformat().replace("+00:00", "Z") == said["at"]
    assert (found.mu_sq_pico, found.delta_atto) == (40_000_000_000, 0)
    assert (found.mechanism_type, found.mechanism_digest) == ("gaussian", said["mechanism"]["digest"])
    assert [(each.name, each.partitions, each.seq, each.hash) for each in found.datasets] == [
        ("mnist", None, said["datasets"][0]["seq"], said["datasets"][0]["hash"])
    ]
    with pytest.raises(AttributeError):
        found.state = "held"  # type: ignore[misc]


def test_a_mechanism_is_known_by_what_was_sent(scene: Scene) -> None:
    """Goal: the same numbers, however written, are the same mechanism; another one is not. Method: objects, floats and
    decimals; a digest by hand."""
    sent = {"noise_multiplier": 5, "type": "gaussian"}
    for same in (sent, {**sent, "noise_multiplier": 5.0}, {**sent, "noise_multiplier": Decimal("5.00")}):
        verify_receipt(scene.started, jwks=scene.jwks, mechanism=same)
    for other in ({**sent, "noise_multiplier": 4.9}, {**sent, "count": 1}, Gaussian(noise_multiplier=5)):
        with pytest.raises(OtherMechanism):
            verify_receipt(scene.started, jwks=scene.jwks, mechanism=other)
    text = '{"noise_multiplier":1.1,"sample_rate":0.00001,"sampling":"poisson","steps":1000000,"type":"dpsgd"}'
    mechanism = DPSGD(noise_multiplier=1.10, sample_rate=1e-5, steps=10**6)
    assert mechanism_digest(mechanism) == hashlib.sha256(text.encode()).hexdigest()


REJECTED: dict[str, tuple[Callable[[Scene], str], dict[str, Any], type[ReceiptRejected]]] = {
    "an approval": (lambda scene: scene.held, {}, ReceiptNotStarted),
    "an approval that was voided": (lambda scene: scene.voided, {}, ReceiptNotStarted),
    "its time is over": (lambda scene: scene.started, {"now": datetime.now(UTC) + timedelta(hours=2)}, ReceiptExpired),
    "an approval's time is over": (
        lambda scene: scene.held,
        {"now": datetime.now(UTC) + timedelta(days=2), "state": "held"},
        ReceiptExpired,
    ),
    "another run": (lambda scene: scene.started, {"run": "00000000-0000-0000-0000-000000000001"}, OtherRun),
    "another dataset": (lambda scene: scene.started, {"datasets": "faces"}, OtherDataset),
    "one dataset more": (lambda scene: scene.started, {"datasets": ["mnist", "faces"]}, OtherDataset),
    "all of what it is for a part of": (lambda scene: scene.of_parts, {"datasets": "clicks"}, OtherDataset),
    "another part": (
        lambda scene: scene.of_parts,
        {"datasets": {"name": "clicks", "partitions": ["a", "b"]}},
        OtherDataset,
    ),
    "another tenant": (lambda scene: scene.started, {"tenant": "globex"}, OtherTenant),
    "a tenant's name in other letters": (lambda scene: scene.started, {"tenant": "ACME"}, OtherTenant),
    "by nobody we know": (
        lambda scene: sign(json.dumps(scene.said), key=SigningKey.generate(), typ=RECEIPT),
        {},
        ReceiptForged,
    ),
    "a head": (lambda scene: scene.signed(HEAD), {}, ReceiptForged),
    "no receipt": (lambda _: "", {}, ReceiptForged),
    "of a later version": (lambda scene: scene.signed(v=3), {}, ReceiptRejected),
    "of a version that is no number": (lambda scene: scene.signed(v=True), {}, ReceiptRejected),
    "of an earlier version, in the form of this one": (lambda scene: scene.signed(v=1), {}, ReceiptRejected),
    "of another type": (lambda scene: scene.signed(type="head"), {}, ReceiptRejected),
    "not approved": (lambda scene: scene.signed(decision="refused"), {}, ReceiptRejected),
    "in a state that there is not": (lambda scene: scene.signed(state="settled"), {}, ReceiptRejected),
    "of no datasets": (lambda scene: scene.signed(datasets=[]), {}, ReceiptRejected),
    "with no end": (lambda scene: scene.signed(begin_by=None), {}, ReceiptRejected),
    "with no time to settle by": (lambda scene: scene.signed(settle_by=None), {}, ReceiptRejected),
    "with an end in no zone": (lambda scene: scene.signed(begin_by="2100-01-01T00:00:00"), {}, ReceiptRejected),
    "of no partition": (lambda scene: scene.of_partitions([]), {"datasets": "mnist"}, OtherDataset),
    "a part of what has no parts": (
        lambda scene: scene.started,
        {"datasets": {"name": "mnist", "partitions": ["a"]}},
        OtherDataset,
    ),
    "a name that no range has": (
        lambda scene: scene.of_partitions([["d-08", "d-11"]]),
        {"datasets": {"name": "mnist", "partitions": ["d-08", "d-9"]}},
        OtherDataset,
    ),
    **{
        f"with the partitions {items}": (partial(Scene.of_partitions, items=items), {}, ReceiptRejected)
        for items in (
            "d-01",
            None,
            [["d-01"]],
            [["d-01", "d-02", "d-03"]],
            [["d-01", "e-02"]],
            [["d-1", "d-02"]],
            [["d-02", "d-01"]],
            [["d", "e"]],
            [["d-1", 2]],
            [{"d-1": 1, "d-2": 2}],
            [1],
            [["000000000", "999999999"]],
        )
    },
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_lets_nothing_begin(scene: Scene, case: str) -> None:
    """Goal: each reason to say no has its own exception, and all of them one base."""
    receipt, demands, kind = REJECTED[case]
    with pytest.raises(ReceiptRejected) as caught:
        verify_receipt(receipt(scene), jwks=scene.jwks, **demands)
    assert type(caught.value) is kind
    assert str(caught.value)


def test_what_lets_a_job_begin(scene: Scene) -> None:
    """Goal: a start's receipt does, until the last moment of its time; an approval's where that is all that is asked;
    of a part, for that part; and one that a retired key signed, by the keys of today."""
    until = datetime.fromisoformat(scene.said["begin_by"])
    verify_receipt(scene.started, jwks=scene.jwks, now=until)
    with pytest.raises(ReceiptExpired):
        verify_receipt(scene.started, jwks=scene.jwks, now=until + timedelta(microseconds=1))
    assert verify_receipt(scene.held, jwks=scene.jwks, state="held").state == "held"
    assert verify_receipt(scene.started, jwks=scene.jwks, state="held").state == "started"
    verify_receipt(scene.of_parts, jwks=scene.jwks, datasets={"name": "clicks", "partitions": ["a"]})
    assert [key["kid"] for key in scene.jwks["keys"][1:]] == [scene.jwks_before["keys"][0]["kid"]]
    verify_receipt(scene.before, jwks=scene.jwks)
    verify_receipt(scene.before, jwks=scene.jwks_before)
    with pytest.raises(ReceiptForged):
        verify_receipt(scene.started, jwks=scene.jwks_before)
    signed, _, _ = scene.started.rpartition(".")
    with pytest.raises(InvalidSignature):
        read(f"{signed}.{scene.before.rpartition('.')[2]}", scene.jwks)


def test_a_receipt_of_version_1(scene: Scene) -> None:
    """Goal: a receipt of before is judged as it was: good until `valid_until`, of every partition if it lists none, and
    otherwise of those that it lists, by their names."""
    until = datetime.now(UTC) + timedelta(days=30)
    on = scene.said["datasets"][0]

    def first_version(**changes: Any) -> str:
        dataset = {**on, **changes}
        said: dict[str, Any] = {"v": 1, "valid_until": until.isoformat(), "begin_by": None, "settle_by": None}
        return scene.signed(**said, datasets=[dataset])

    whole = first_version()
    for use in ("mnist", {"name": "mnist", "partitions": ["a", "never heard of"]}):
        found = verify_receipt(whole, jwks=scene.jwks, datasets=[use], now=until)
        assert (found.version, found.begin_by, found.due, found.datasets[0].partitions) == (1, until, until, None)
    with pytest.raises(ReceiptExpired):
        verify_receipt(whole, jwks=scene.jwks, now=until + timedelta(microseconds=1))
    verify_receipt(first_version(partitions=["a"]), jwks=scene.jwks, datasets={"name": "mnist", "partitions": ["a"]})
    for use in ("mnist", {"name": "mnist", "partitions": ["a", "b"]}):
        with pytest.raises(OtherDataset):
            verify_receipt(first_version(partitions=["a"]), jwks=scene.jwks, datasets=[use])
    for partitions in ([], [["a1", "a3"]], None):
        with pytest.raises(ReceiptRejected, match="does not know"):
            verify_receipt(first_version(partitions=partitions), jwks=scene.jwks)


def test_mistakes_of_the_caller(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a key set that is none and a time without a zone are the caller's mistakes, and no verdict; without PyJWT
    it says what to install."""
    with pytest.raises(InvalidRequest, match="jwks"):
        verify_receipt(scene.started, jwks={"keys": []})
    with pytest.raises(ValueError, match="time zone"):
        verify_receipt(scene.started, jwks=scene.jwks, now=datetime(2026, 1, 1))  # noqa: DTZ001 (that is the point)
    monkeypatch.delitem(sys.modules, "ledger.verifier.jws")
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.delattr("ledger.verifier.jws", raising=False)
    with pytest.raises(Misconfigured, match=r"privacy-ledger\[receipts\]"):
        verify_receipt(scene.started, jwks=scene.jwks)


# --- before a job, for real ------------------------------------------------------------------------------------------


_NUMBERS = itertools.count()
Verdict = Callable[[], tuple[str, int]]


@dataclass(frozen=True)
class Gate:
    """The example of docs/how-to/receipts.md, as the step before a job: a process of its own."""

    folder: Path
    jwks: dict[str, Any]

    def begins(self, receipt: str | None, *more: str, dataset: str = "mnist") -> Verdict:
        """Starts the step; what it comes to is there once it is asked for."""
        folder = self.folder / str(next(_NUMBERS))
        folder.mkdir()
        (folder / "jwks.json").write_text(json.dumps(self.jwks))
        (folder / "mechanism.json").write_text(json.dumps(RELEASE["mechanism"]))
        (folder / "other.json").write_text('{"type": "gaussian", "noise_multiplier": 1}')
        if receipt is not None:
            (folder / "receipt").write_text(receipt + "\n")
        demands = ["--jwks", "jwks.json", "--tenant", "acme", "--dataset", dataset, *more]
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), *demands, "receipt"],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return lambda: (process.communicate()[0], process.returncode)


def test_no_job_begins_without_its_receipt(scene: Scene, tmp_path: Path) -> None:
    """Goal: the example lets a job begin by the receipt of its start, also by one of before the key was rotated, and by
    nothing else. Method: the script as it is, in processes of its own, with no server anywhere."""
    gate = Gate(tmp_path, scene.jwks)
    forged = sign(json.dumps(scene.said), key=SigningKey.generate(), typ=RECEIPT)
    refused = {
        "No such file": gate.begins(None),
        "can still be voided": gate.begins(scene.held),
        "which can still": gate.begins(scene.voided),
        "does not include faces": gate.begins(scene.started, dataset="faces"),
        "another mechanism": gate.begins(scene.started, "--mechanism-file", "other.json"),
        "could begin with it until 2026": gate.begins(scene.signed(begin_by="2026-01-01T00:00:00.000000Z")),
        "None of these keys": gate.begins(forged),
    }
    let_in = [
        gate.begins(scene.started, "--run", scene.run, "--mechanism-file", "mechanism.json"),
        gate.begins(scene.before),
    ]
    for reason, verdict in refused.items():
        words, status = verdict()
        assert (status, words.startswith("refused: "), reason in words) == (1, True, True), words
    for verdict in let_in:
        words, status = verdict()
        assert (status, words.split()[2:4]) == (0, ["may", "begin,"]), words


# --- on the command line ---------------------------------------------------------------------------------------------


def test_a_start_that_is_over_has_a_new_receipt(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: `start` that is typed long after its answer was lost answers with a receipt by which a job may begin.
    Method: the token of the lost start on the disk; a clock by which its receipt is over."""
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    run = terminal("request mnist --type gaussian --noise-multiplier 20 --json").json["id"]
    with Client() as client:
        first = client.start(run, token="lost")
    files = open_files()
    assert files is not None
    files.write(f"starts/{run}.json", {"run": run, "token": "lost"})
    monkeypatch.setattr("ledger.cli.runs.is_over", lambda _: True)
    renewed = terminal(f"start {run} --json").json
    assert renewed["begin_by"] > first["begin_by"]
    assert read(renewed["receipt"], terminal("jwks --json").json)["begin_by"] == renewed["begin_by"]
    assert {**renewed, "receipt": first["receipt"], "begin_by": first["begin_by"]} == first


def test_the_commands(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: a receipt and the keys are fetched into files and checked from them; exit status 0 is good, 1 is not good
    for this, 2 is a mistake; scripts get JSON."""
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    run = terminal("request mnist --type gaussian --noise-multiplier 20 --json").json["id"]
    assert terminal("jwks --output jwks.json").status == 0
    assert json.loads((tmp_path / "jwks.json").read_text()) == terminal("jwks --json").json
    shown = terminal(f"receipt show {run}")
    assert "A job must not begin with it" in shown.err
    keys = terminal("jwks --json").json
    renewed = terminal(f"receipt show {run} --json").json
    assert {**read(shown.out.strip(), keys), "begin_by": renewed["begin_by"]} == read(renewed["receipt"], keys)
    terminal(f"receipt show {run} --output held.jws")
    check = "receipt verify --jwks jwks.json"
    refused = terminal(f"{check} held.jws")
    assert (refused.status, "can still be voided" in refused.err) == (1, True)
    held = terminal(f"{check} held.jws --state held")
    assert (held.status, "A job must not begin with it" in held.out) == (0, True)
    begun = terminal(f"start {run}")
    assert "A job may begin until" in begun.out
    told = terminal(f"receipt show {run} --output started.jws")
    assert "receipt verify" in told.err
    (tmp_path / "mechanism.json").write_text('{"noise_multiplier": 20.0, "type": "gaussian"}')
    good = terminal(f"{check} started.jws --tenant acme --dataset mnist --run {run} --mechanism-file mechanism.json")
    assert (good.status, good.out.split()[0]) == (0, "good"), good.err
    for words in (run, "acme", "mnist", "mu 0.05", "begin by", "settle by"):
        assert words in good.out
    facts = terminal(f"{check} started.jws --json").json
    assert (facts["good"], facts["run"], facts["datasets"][0]["name"]) == (True, run, "mnist")
    for demand, code in (("--dataset faces", "dataset"), ("--tenant globex", "tenant"), (f"--run {'0' * 8}", "run")):
        said = terminal(f"{check} started.jws {demand} --json")
        assert (said.status, said.json["good"], said.json["code"]) == (1, False, f"receipt-of-another-{code}")
    (tmp_path / "empty").write_text("")
    assert terminal(f"{check} empty").status == 1
    mistakes = ("nothing.jws", "started.jws --state settled", "started.jws --mechanism-file started.jws")
    for mistake in (*(f"{check} {words}" for words in mistakes), "receipt verify started.jws --jwks started.jws"):
        assert terminal(mistake).status == 2, mistake
    terminal(f"settle {run}")
    ended = terminal(f"receipt show {run} --output -")
    assert (ended.status, f"Run {run} is settled." in " ".join(ended.err.split())) == (1, True)


def test_a_mechanism_beyond_all_numbers_has_no_digest() -> None:
    """Goal: a job that names nonsense is told so, and its memory stays."""
    with pytest.raises(InvalidRequest, match="mechanism"):
        mechanism_digest({"type": "gaussian", "noise_multiplier": Decimal("1e999999999")})
