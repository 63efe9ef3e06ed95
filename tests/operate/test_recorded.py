"""What a ledger at revision 0005 wrote stays good: exports and receipts verify, its database migrates, its runs go on.

`cases/revision_0005.json` was made by `python -m tests.kit.record` with the program at commit 8016dae (database
revision 0005, entries and exports of version 2). It is never made again: the next version records a set of its own
beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from pydantic import SecretStr
from sqlalchemy import Connection, column, insert, table, text
from starlette.testclient import TestClient

from ledger.api.app import create_app
from ledger.client import OtherDataset, ReceiptExpired, ReceiptForged, verify_receipt
from ledger.errors import JournalBroken
from ledger.operate import deploy
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import engine_for
from ledger.verifier.jws import PublicKeys, SigningKey
from ledger.verifier.verify import Verified, verify
from ledger.verifier.witness import Witnesses
from tests.conftest import KINDS, Templates
from tests.kit import independent_reading, independent_verifier
from tests.kit.clocks import set_clock
from tests.kit.databases import Databases
from tests.kit.driver import Ledger
from tests.kit.record import REPEATED, recomputed, record, verdict
from tests.kit.report_scene import SGD
from tests.kit.scene import ok

BEFORE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "cases" / "revision_0005.json").read_text("utf-8"))
JWKS: dict[str, Any] = BEFORE["jwks"]
KEYS = PublicKeys.of(JWKS)
RUNS: dict[str, str] = BEFORE["runs"]
MOVED = {"report": "how-to/report", "export": "reference/export", "accounting": "explanation/accounting"}
"""Pages of the documentation that a report names, and where they are by now."""
SHOWN: dict[str, Any] = json.loads(
    reduce(
        lambda text, name: text.replace(f'"docs/{name}.md"', f'"docs/{MOVED[name]}.md"'),
        MOVED,
        json.dumps(BEFORE["shown"]).replace(
            "argument in docs/accounting.md", "argument in docs/explanation/decision.md"
        ),
    )
)
TENANT: dict[str, str] = SHOWN["/v1/me"]["tenant"]
EXPORTS: dict[str, str] = {**BEFORE["exports"], "": BEFORE["tenant_export"]}
"""By the dataset's name; of the tenant's own journal under none."""
LATER = datetime.fromisoformat("2026-11-29T03:10:00Z")
"""When the set was recorded, and a few minutes."""
OF_NOW = {"is_overdue", "last_used_at", "commands", "detail"}
"""Members of an answer that depend on the time, or on the version: its commands, and the words of a problem."""


def said_of(path: str, id_: str) -> dict[str, Any]:
    """An item of a page as it was shown."""
    found: dict[str, Any] = next(item for item in SHOWN[path]["items"] if item["id"] == id_)
    return found


def cell(name: str, value: Any, dialect: str) -> Any:
    """A value as a driver takes it."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    is_id = value is not None and (name == "id" or name.endswith("_id"))
    return UUID(value) if is_id and dialect == "postgresql" else value


def fill(connection: Connection) -> None:
    """Puts the rows in, in the order in which they stand, each as its tenant."""
    dialect = connection.dialect.name
    for name, said in BEFORE["tables"].items():
        into = table(name, *(column(each) for each in said["columns"]))
        for row in said["rows"]:
            values = dict(zip(said["columns"], row, strict=True))
            if dialect == "postgresql" and "tenant_id" in values:
                connection.execute(
                    text("SELECT set_config('app.tenant_id', :id, true)"), {"id": str(values["tenant_id"])}
                )
            connection.execute(insert(into).values({each: cell(each, values[each], dialect) for each in values}))


@contextmanager
def of_then(databases: Databases) -> Iterator[Settings]:
    """A database, and a folder of published heads, as the program left them."""
    with databases.empty() as settings:
        engine = engine_for(settings.owner_url)
        with engine.execution_options(writing=True).begin() as connection:
            config = deploy._config()
            config.attributes["connection"] = connection
            command.upgrade(config, BEFORE["revision"])
            fill(connection)
        engine.dispose()
        folder = databases.folder / "heads"
        for name, lines in BEFORE["heads"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(lines, "ascii")
        yield settings.model_copy(update={"signing_key": SecretStr(BEFORE["signing_key"]), "heads_dir": folder})


@pytest.fixture(params=KINDS)
def migrated(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """The same, brought up to the newest revision."""
    with of_then(Databases(request.param, templates, tmp_path)) as settings:
        assert deploy.migrate(settings) == deploy.newest_revision()
        yield settings


@contextmanager
def opened(settings: Settings) -> Iterator[dict[str, Ledger]]:
    """The application on it, by each of the keys of then."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield {name: Ledger(client, key) for name, key in BEFORE["keys"].items()}


def faults(settings: Settings) -> dict[tuple[str, str | None], str | None]:
    """What the audit finds wrong with each journal, held against the receipts and heads that were given away."""
    held = Witnesses()
    for name, receipt in BEFORE["receipts"].items():
        held.add_receipts(receipt, keys=KEYS, source=name)
    for name, lines in BEFORE["heads"].items():
        held.add_heads(lines, keys=KEYS, source=name)
    return {(found["tenant"], found["dataset"]): found["error"] for found in check_journals(settings, held)}


HOLDS = {("acme", name or None): None for name in EXPORTS} | {("globex", None): None, ("globex", "mnist"): None}


# --- exports and receipts, with no server ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_verifies(name: str) -> None:
    """Goal: an export that somebody keeps is good, and says what it said. Method: the verifier, by the published keys,
    and the one that knows nothing of the ledger; each beside what was recorded."""
    assert verdict(EXPORTS[name], KEYS) == BEFORE["verdicts"][name]
    if name:
        count, accounts = independent_verifier.verify(EXPORTS[name].splitlines())
        recorded = BEFORE["verdicts"][name]
        assert count == recorded["seq"]
        theirs = {json.dumps(key): account["spent"] for key, account in accounts.items()}
        names = ("partition", "project", "principal")
        assert theirs == {
            json.dumps([account.get(part) for part in names]): independent_reading.amount(account["spent"])
            for account in recorded["accounts"]
        }


@pytest.mark.parametrize("name", EXPORTS)
def test_a_changed_byte_is_found(name: str) -> None:
    """Goal: a recorded export is not good whatever stands in it. Method: one byte of each entry and of the head, at
    three places of its line, is made another."""
    lines = EXPORTS[name].splitlines()
    for place in range(1, len(lines)):
        for quarter in (1, 2, 3):
            line = lines[place]
            at = len(line) * quarter // 4
            changed = f"{line[:at]}{'1' if line[at] == '0' else '0'}{line[at + 1 :]}"
            with pytest.raises(JournalBroken):
                verify([*lines[:place], changed, *lines[place + 1 :]], keys=KEYS)
    other = PublicKeys.of({"keys": [SigningKey.generate().public_jwk()]})
    with pytest.raises(JournalBroken, match="signature"):
        verify(lines, keys=other)


@pytest.mark.parametrize("name", BEFORE["exports"])
def test_a_recomputation_comes_to_the_same(name: str) -> None:
    """Goal: no accountant changes what was charged without anybody's notice. Method: every cost of the exports again,
    certificates included, beside what it came to then; exact means to the last digit."""
    found = recomputed(EXPORTS[name])
    assert not found["counts"].pop("dearer")
    assert found == BEFORE["recomputed"][name]
    assert found["counts"]["exact"] == sum(found["counts"].values()) > 0


@pytest.mark.parametrize(("name", "state", "dataset"), [("held", "held", "ads"), ("running", "started", "clicks")])
def test_a_receipt_verifies(name: str, state: Any, dataset: str) -> None:
    """Goal: a receipt of then lets begin what it let begin, until it ends. Method: at the time of the receipt, and in
    the year 3000; and by another key."""
    receipt = BEFORE["receipts"][name]
    run = said_of("/v1/runs", RUNS[name])
    uses: dict[str, Any] = (
        {"name": dataset, **run["request"]["datasets"][0]} if state == "started" else {"name": dataset}
    )
    asked: dict[str, Any] = {"tenant": TENANT["id"], "run": RUNS[name], "datasets": uses, "state": state}
    at = datetime.fromisoformat(run["started"]["at"] if state == "started" else run["created_at"])
    found = verify_receipt(receipt, jwks=JWKS, mechanism=run["request"]["mechanism"], now=at, **asked)
    assert (found.state, found.at, found.project) == (state, at, "search")
    assert {"mu_sq_pico": str(found.mu_sq_pico), "delta_atto": str(found.delta_atto)}.items() <= run["cost"].items()
    entries = [json.loads(line) for line in EXPORTS[dataset].splitlines()[1:-1]]
    assert found.datasets[0].hash == entries[found.datasets[0].seq - 1]["hash"]
    with pytest.raises(ReceiptExpired):
        verify_receipt(receipt, jwks=JWKS, now=datetime.fromisoformat("3000-01-01T00:00:00Z"), **asked)
    with pytest.raises(ReceiptForged):
        verify_receipt(receipt, jwks={"keys": [SigningKey.generate().public_jwk()]}, now=at, **asked)


# --- the database ----------------------------------------------------------------------------------------------------


def test_a_migrated_database_holds(migrated: Settings) -> None:
    """Goal: nothing is lost on the way. Method: the audit, which adds every journal up and holds it against the rows,
    and against the receipts and heads that were given away; and each export, which is the same to the byte, the version
    of its form apart."""
    assert faults(migrated) == HOLDS
    with opened(migrated) as by:
        for name, export in EXPORTS.items():
            path = f"/v1/datasets/{name}/export" if name else "/v1/export"
            assert by["admin"].get(path).text == export.replace('"version":2', '"version":3', 1)
        runs = by["admin"].get("/v1/runs", limit=1000).json()["items"]
    assert any(len(run["datasets"]) > 1 for run in runs)
    for run in runs:
        asked = [use if isinstance(use, str) else use["name"] for use in run["request"]["datasets"]]
        listed = [use["name"] for use in run["datasets"]]
        assert listed == [*asked, *sorted(set(listed) - set(asked))]


def kept(old: Any, new: Any) -> Any:
    """Of an answer what an older one said too, as far as neither tells of the time; what is new may stand beside it."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {name: kept(old[name], new[name]) for name in old.keys() & new.keys() - OF_NOW}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [kept(*pair) for pair in zip(old, new, strict=True)]
    return new


def unworded(answer: Any) -> Any:
    """The answer without the sentences of a report, and without its instructions for recomputing it."""
    if isinstance(answer, dict):
        return {name: unworded(item) for name, item in answer.items() if name not in ("sentence", "recompute")}
    return [unworded(item) for item in answer] if isinstance(answer, list) else answer


def test_what_was_shown_is_shown(migrated: Settings) -> None:
    """Goal: an upgrade changes no answer. Method: what an admin saw, a report with all its figures among it, and the
    answers to repeated requests. Only what the clock does may differ (a proposal ends, and late runs raise alerts) and
    the wording of a report's sentences."""
    with opened(migrated) as by:
        for path, old in SHOWN.items():
            new = ok(by["admin"].get(path))
            if path == "/v1/alerts":
                ids = {item["id"] for item in old["items"]}
                new["items"] = [item for item in new["items"] if item["id"] in ids]
            if path == "/v1/proposals":
                ended = [item for item in new["items"] if item["state"] == "expired"]
                for item in ended:
                    item["state"] = "open"
            assert unworded(kept(old, new)) == unworded(kept(old, old)), path
        for key, body in REPEATED.items():
            again = by["requester"].post("/v1/runs", body, Idempotency_Key=key)
            assert again.headers["idempotent-replayed"] == "true"
            old = BEFORE["answers"][key]
            assert kept(old, again.json()) == kept(old, old)
        assert ok(by["operator"].get("/v1/me")) == {"role": "operator"}
        assert ok(by["other"].get("/v1/me"))["tenant"]["name"] == "globex"
        assert by["other"].get(f"/v1/runs/{RUNS['held']}").status_code == 404


RECEIPT_OF_RUNNING = f"/v1/runs/{RUNS['running']}/receipt"


def test_runs_of_then_go_on(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what was held is started and settled, what was started is settled, and what is new is decided on what was
    there. Method: do so, and add the balance up by hand; the audit; and new exports, which have to begin with the old
    ones, with receipts and heads that stand beside those of then. All a few minutes later: an approval holds for a
    day."""
    set_clock(monkeypatch, LATER)
    with opened(migrated) as by:
        requester = by["requester"]

        def end(name: str, do: str) -> dict[str, Any]:
            found: dict[str, Any] = ok(requester.post(f"/v1/runs/{RUNS[name]}/{do}"))
            return found

        before = requester.balance("ads")
        started = end("held", "start")
        asked: dict[str, Any] = {"tenant": TENANT["id"], "datasets": "ads", "run": RUNS["held"]}
        receipt = verify_receipt(started["receipt"], jwks=JWKS, now=LATER, **asked)
        cost = receipt.mu_sq_pico
        assert cost == int(said_of("/v1/runs", RUNS["held"])["cost"]["mu_sq_pico"]) > 0
        assert requester.balance("ads") == before
        assert int(end("held", "settle")["charged"]["mu_sq_pico"]) == cost
        after = requester.balance("ads")
        assert after["spent"] == (before["spent"][0] + cost, before["spent"][1])
        assert after["held"] == (before["held"][0] - cost, before["held"][1])
        running = said_of("/v1/runs", RUNS["running"])
        (use,) = running["request"]["datasets"]
        for answer in (ok(requester.post(f"/v1/runs/{RUNS['running']}/start")), ok(requester.get(RECEIPT_OF_RUNNING))):
            at: Any = {"now": datetime.fromisoformat(running["started"]["at"])}
            receipt = verify_receipt(answer["receipt"], jwks=JWKS, datasets=[use], **at)
            assert (receipt.version, receipt.datasets[0].partitions) == (2, tuple(use["partitions"]))
            with pytest.raises(OtherDataset):
                verify_receipt(answer["receipt"], jwks=JWKS, datasets="clicks", **at)
        assert end("running", "settle")["charged"] == running["cost"]
        first = said_of("/v1/runs", RUNS["baseline"])
        again = ok(requester.ask(SGD, datasets=["ads"], delta=first["delta"], key="again"))
        # By another accountant, which composes once for all deltas.
        assert again["accountant"] != first["accountant"]
        assert int(again["cost"]["mu_sq_pico"]) == pytest.approx(int(first["cost"]["mu_sq_pico"]), rel=1e-4)
        assert requester.ask(datasets=["papers"], key="frozen").json()["code"] == "dataset-frozen"
        ok(by["other"].ask(key="new"))
        for name in ("ads", "clicks", "papers.parts"):
            new = by["admin"].get(f"/v1/datasets/{name}/export").text.splitlines()
            found = verify(new, keys=KEYS, earlier=EXPORTS[name].splitlines())
            assert isinstance(found, Verified)
            old = BEFORE["verdicts"][name]["seq"]
            assert (found.vouched.earlier, found.journal.seq - old) == (old, {"ads": 3, "clicks": 1}.get(name, 0))
            assert independent_verifier.verify(new)[0] == found.journal.seq
    assert faults(migrated) == HOLDS
    assert migrated.heads_dir is not None
    moved = set()
    for name, lines in BEFORE["heads"].items():
        published = (migrated.heads_dir / name).read_text("ascii")
        assert published.startswith(lines)
        if published != lines:
            moved.add(name)
    ids = {name: json.loads(export.splitlines()[0])["dataset"]["id"] for name, export in BEFORE["exports"].items()}
    assert {f"{TENANT['id']}/{ids[name]}.jws" for name in ("ads", "clicks")} == {
        name for name in moved if name.startswith(TENANT["id"])
    }


# --- the next set ----------------------------------------------------------------------------------------------------


def test_a_set_can_be_recorded(tmp_path: Path) -> None:
    """Goal: the version after this one can be recorded too, and no table is left out. Method: record this one again."""
    found = record(tmp_path)
    assert found.keys() == BEFORE.keys()
    assert found["revision"] == deploy.newest_revision()
    # Who looks for alerts is no record; nor are sign-ins, and days are counted from the entries.
    empty = [name for name, said in found["tables"].items() if not said["rows"]]
    assert sorted(empty) == ["days", "leases", "sessions"]
    assert found["tables"].keys() >= BEFORE["tables"].keys()
    assert found["shown"].keys() == SHOWN.keys()
