"""A ledger of version 1 goes on: its journals are read, its rows move into the new tables, its runs go on.

`cases/revision_0002.json` has every row that the program before wrote, and what it answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from sqlalchemy import Connection, column, insert, table
from starlette.testclient import TestClient

from ledger.api.app import create_app
from ledger.client import ReceiptExpired, verify_receipt
from ledger.core.amounts import Amount
from ledger.core.datasets import AccountKey
from ledger.core.journal import chain, replay
from ledger.errors import JournalBroken
from ledger.operate import deploy
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import engine_for
from tests.conftest import KINDS, Templates
from tests.kit import independent_verifier
from tests.kit.clocks import set_clock
from tests.kit.databases import Databases, ask
from tests.kit.driver import RELEASE, Ledger, past_the_ledger
from tests.kit.exports import exported

BEFORE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "cases" / "revision_0002.json").read_text("utf-8"))
TABLES: dict[str, list[dict[str, Any]]] = BEFORE["tables"]
TENANT = UUID(TABLES["tenants"][0]["tenant_id"])
IDS = {row["name"]: UUID(row["id"]) for row in TABLES["datasets"]}
LATER = datetime(2026, 11, 25, 3, 50, tzinfo=UTC)
"""When the rows were recorded, and some minutes."""
RUNS = {row["key"]: row["run_id"] for row in TABLES["claims"]}


def journal_of(name: str) -> list[tuple[str, bytes]]:
    """A dataset's entries as they were written."""
    mine = [row for row in TABLES["entries"] if row["dataset_id"] == str(IDS[name])]
    return [(row["body"], bytes.fromhex(row["hash"]["hex"])) for row in mine]


def shown_before(name: str) -> dict[str, Any]:
    """A dataset as it was shown."""
    found: dict[str, Any] = next(item for item in BEFORE["shown"]["datasets"] if item["name"] == name)
    return found


def cell(value: Any) -> Any:
    """A value as a driver takes it."""
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def fill(connection: Connection) -> None:
    """Puts the rows in, in an order in which what is referred to comes first."""
    for name, rows in TABLES.items():
        into = table(name, *(column(each) for each in rows[0]))
        for row in rows:
            values = {key: cell(value) for key, value in row.items()}
            if connection.dialect.name == "postgresql":
                values = {k: UUID(v) if k.endswith("id") and v is not None else v for k, v in values.items()}
            connection.execute(insert(into).values(values))


@contextmanager
def of_revision_0002(databases: Databases) -> Iterator[Settings]:
    """A database as the program before left it."""
    with databases.empty() as settings:
        engine = engine_for(settings.owner_url)
        with engine.execution_options(writing=True).begin() as connection:
            config = deploy._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0002")
            fill(connection)
        engine.dispose()
        yield settings


@pytest.fixture(params=KINDS)
def migrated(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """The same, brought up to the newest revision."""
    with of_revision_0002(Databases(request.param, templates, tmp_path)) as settings:
        assert deploy.migrate(settings) == deploy.newest_revision()
        past_the_ledger(settings).dispose()
        yield settings


@contextmanager
def opened(settings: Settings, patched: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The application on it, with the admin's key of then, some minutes later: an approval holds for a day."""
    set_clock(patched, LATER)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield Ledger(client, BEFORE["admin_key"])


# --- journals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDS)
def test_a_journal_of_version_1_replays(name: str) -> None:
    """Goal: what was recorded stays readable. Method: entries that the program before wrote, against its own rows."""
    entries = journal_of(name)
    assert {chain.parse(body)["v"] for body, _ in entries} == {1}
    found = replay.replay(entries, tenant_id=TENANT, dataset_id=IDS[name])
    (row,) = (row for row in TABLES["accounts"] if row["dataset_id"] == str(IDS[name]))
    (account,) = found.accounts.values()
    assert account.key == AccountKey(IDS[name])
    for part in ("limit", "spent", "held", "overdrawn"):
        expected = Amount(row[f"{part}_mu_sq_pico"], row[f"{part}_delta_atto"])
        assert getattr(account, part) == expected, part
    states = {row["id"]: row["state"] for row in TABLES["runs"] if row["dataset_id"] == str(IDS[name])}
    assert {str(run): state for run, (state, _) in found.runs.items()} == states
    count, theirs = independent_verifier.verify(exported(IDS[name], entries, tenant_id=TENANT))
    spent = [account.spent.mu_sq_pico, account.spent.delta_atto]
    assert (count, [each["spent"] for each in theirs.values()]) == (len(entries), [spent])


def _less(part: str) -> Any:
    def change(entry: dict[str, Any]) -> None:
        entry[part]["mu_sq_pico"] = str(int(entry[part]["mu_sq_pico"]) - 1)

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("dataset-registered", _less("limit")),
        ("run-approved", _less("cost")),
        ("run-settled", _less("charged")),
        ("run-approved", lambda entry: entry.pop("balance")),
        ("run-refused", lambda entry: entry["binding"].append("delta")),
        ("run-refused", lambda entry: entry.update(binding=[])),
        ("run-refused", lambda entry: entry.update(kind="run-approved")),
        ("run-voided", lambda entry: entry.update(run=RUNS["refused"])),
        ("budget-set", _less("limit")),
        ("run-approved", lambda entry: entry.update(v=4)),
    ],
    ids=map(str, range(10)),
)
def test_a_forgery_of_version_1_is_found(kind: str, change: Any) -> None:
    """Goal: old entries are held to the rules too. Method: change one, and make every hash after it anew."""
    entries = [chain.parse(body) for body, _ in journal_of("mnist")]
    at = next(place for place, entry in enumerate(entries) if entry["kind"] == kind)
    change(entries[at])
    sealed = sealed_anew(entries)
    with pytest.raises(JournalBroken) as caught:
        replay.replay(sealed, tenant_id=TENANT, dataset_id=IDS["mnist"])
    assert caught.value.seq >= at + 1


def sealed_anew(entries: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """The entries with hashes that follow each other."""
    sealed: list[tuple[str, bytes]] = []
    for entry in entries:
        if sealed:
            entry["prev"] = sealed[-1][1].hex()
        body = chain.canonical(entry)
        sealed.append((body, chain.digest(body)))
    return sealed


def test_a_time_of_version_1_that_goes_back_is_remarked_on() -> None:
    """Goal: such a journal exists and verifies, and the first such entry is named. Method: the time of an entry that
    changes only a title or state, moved before the one before it."""
    entries = [chain.parse(body) for body, _ in journal_of("mnist")]
    found = replay.replay(sealed_anew(entries), tenant_id=TENANT, dataset_id=IDS["mnist"])
    assert found.backwards is None
    at = next(place for place, entry in enumerate(entries) if entry["kind"] in ("dataset-changed", "budget-set"))
    entries[at]["at"] = "2020" + entries[at]["at"][4:]
    found = replay.replay(sealed_anew(entries), tenant_id=TENANT, dataset_id=IDS["mnist"])
    assert found.backwards == at + 1


# --- the migration ---------------------------------------------------------------------------------------------------


def test_nothing_is_lost(migrated: Settings) -> None:
    """Goal: every row is there, in its new place, and adds up. Method: each old row against the new tables, with SQL;
    then the audit, which adds every journal up and holds it against the rows."""

    def rows(question: str) -> set[tuple[str, ...]]:
        return {tuple(str(value) for value in row) for row in ask(migrated, question)}

    def before(name: str, *columns: str, **more: str) -> set[tuple[str, ...]]:
        return {(*(str(row[each]) for each in columns), *more.values()) for row in TABLES[name]}

    amounts = [f"{part}_{q}" for part in ("limit", "spent", "held", "overdrawn") for q in ("mu_sq_pico", "delta_atto")]
    base = {"partition": "", "project": "", "principal": str(UUID(int=0))}
    assert rows(f"SELECT dataset_id, {', '.join(amounts)}, partition, project, principal_id FROM accounts") == before(
        "accounts", "dataset_id", *amounts, **base
    )
    kept = ("id", "principal_id", "state", "mu_sq_pico", "delta_atto", "created_us", "started_us", "ended_us", "due_us")
    assert rows(f"SELECT {', '.join(kept)} FROM runs") == before("runs", *kept)
    assert ask(migrated, "SELECT count(*) FROM runs WHERE project IS NOT NULL") == [(0,)]
    placed = ("id", "dataset_id", "seq", "principal_id", "created_us")
    assert rows("SELECT run_id, dataset_id, seq, principal_id, created_us FROM places") == before("runs", *placed)
    columns = (
        "id",
        "name",
        "title",
        "privacy_unit",
        "adjacency",
        "bound",
        "size",
        "budget",
        "state",
        "seq",
        "created_us",
    )
    assert rows(f"SELECT {', '.join(columns)} FROM datasets") == before("datasets", *columns)
    limits = ("dataset_id", "limit_mu_sq_pico", "limit_delta_atto")
    assert rows("SELECT id, limit_mu_sq_pico, limit_delta_atto FROM datasets") == before("accounts", *limits)
    assert rows("SELECT dataset_id, seq, kind, at_us, run_id, body FROM entries") == before(
        "entries", "dataset_id", "seq", "kind", "at_us", "run_id", "body"
    )
    assert rows("SELECT key, principal_id, run_id FROM claims") == before("claims", "key", "principal_id", "run_id")
    assert ask(migrated, "SELECT count(*) FROM lineage") == ask(migrated, "SELECT count(*) FROM projects") == [(0,)]
    assert [(found["dataset"], found["error"]) for found in check_journals(migrated)] == [
        (None, None),  # the tenant's own journal, which begins now
        ("certified", None),
        ("empty", None),
        ("mnist", None),
    ]


def beside(new: Any, old: Any) -> Any:
    """What of an answer was there before: objects may have more members now."""
    if isinstance(old, dict):
        return {name: beside(new[name], value) for name, value in old.items()}
    if isinstance(old, list):
        return [beside(*pair) for pair in zip(new, old, strict=True)]
    return new


def test_what_was_shown_is_shown(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an upgrade changes no answer. Method: datasets, runs and repeated keys as the program before answered;
    what is new stands beside it."""
    with opened(migrated, monkeypatch) as ledger:
        for name in IDS:
            shown = ledger.get(f"/v1/datasets/{name}").json()
            old = shown_before(name)
            assert beside(shown, old) == old
            assert (shown["roots"], shown["partition_count"], shown["projects"]) == ([name], None, [])
        for item in BEFORE["shown"]["runs"]:
            shown = ledger.get(f"/v1/runs/{item['id']}").json()
            assert beside(shown, item) == item
        refused = {"type": "gaussian", "noise_multiplier": 1}
        for key, mechanism, status in (("held", None, 201), ("refused", refused, 409)):
            again = ledger.ask(mechanism, key=key)
            assert (again.status_code, again.headers["idempotent-replayed"]) == (status, "true")
            old = BEFORE["answers"][key]
            facts = {member: old[member] for member in old.keys() - {"detail"}}  # words may change, facts may not
            assert beside(again.json(), facts) == facts
            new = {"percent", "percent_of_delta", "receipt"} if status == 201 else set()
            assert again.json().keys() - old.keys() == {"epsilon", "runs_left", *new}
        listed = ledger.get("/v1/runs", dataset="mnist").json()["items"]
        assert [run["id"] for run in listed] == [
            run["id"] for run in BEFORE["shown"]["runs"] if run["datasets"][0]["name"] == "mnist"
        ]


def test_runs_of_before_go_on(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what was held can be started, settled for less, and voided, and what is decided next is decided on what was
    there. Method: do so, add up the balance by hand, and let the audit add up the journals, which now mix versions."""
    with opened(migrated, monkeypatch) as ledger:
        once = 40_000_000_000

        def end(key: str, do: str, body: Any = None) -> dict[str, Any]:
            answer = ledger.post(f"/v1/runs/{RUNS[key]}/{do}", body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        limit, spent = 4 * 10**12, once
        assert (ledger.balance()["limit"][0], ledger.balance()["spent"][0]) == (limit, spent)
        # Two releases were planned, and one was made: additive, so one is returned.
        settled = end("started", "settle", {"steps": 1})
        assert int(settled["charged"]["mu_sq_pico"]) == int(settled["returned"]["mu_sq_pico"]) == once
        keys = ledger.client.get("/.well-known/jwks.json").json()
        receipt = ledger.get(f"/v1/runs/{RUNS['held']}/receipt").json()["receipt"]
        started = end("held", "start")["receipt"]
        assert verify_receipt(started, jwks=keys, datasets="mnist", now=LATER).run == RUNS["held"]
        entries = {chain.digest(body).hex() for body, _ in journal_of("mnist")}
        with pytest.raises(ReceiptExpired):
            verify_receipt(receipt, jwks=keys, state="held")  # by what was recorded
        held = verify_receipt(receipt, jwks=keys, state="held", now=datetime(2026, 1, 1, tzinfo=UTC))
        assert held.datasets[0].hash in entries
        end("held", "settle")
        end("held-too", "void", {"reason": "no longer"})
        assert (ledger.balance()["spent"], ledger.balance()["held"]) == ((3 * once, 0), (0, 0))
        assert end("settled", "settle", {"evidence": {"loss": 0.125}})["state"] == "settled"
        assert end("voided", "void", {"reason": "not needed"})["state"] == "voided"
        left = (limit - 3 * once) // once
        body = [{**RELEASE, "idempotency_key": f"new-{number}"} for number in range(left + 1)]
        statuses = [item["status"] for item in ledger.post("/v1/runs/batch", {"runs": body}).json()["results"]]
        assert statuses == [201] * left + [409]
        # What is new is open to what is old.
        assert ledger.put("/v1/datasets/mnist/projects/p", {"budget": {"mu": 1, "delta": 0}}).status_code == 200
        derived = {"name": "copy", "derived_from": [{"name": "mnist", "unit_preserving": True}]}
        assert ledger.post("/v1/datasets", derived).status_code == 201
        closed = ledger.post("/v1/datasets/mnist/partitions", {"names": ["a"], "disjoint": True})
        assert (closed.status_code, closed.json()["code"]) == (409, "partitions-closed")
    assert [found["error"] for found in check_journals(migrated)] == [None] * 5
    mixed = {seq: json.loads(body)["v"] for seq, body in ask(migrated, _BODIES.format(IDS["mnist"]))}
    assert set(mixed.values()) == {1, chain.VERSION}
    assert sorted(mixed, key=lambda seq: (mixed[seq], seq)) == sorted(mixed)


_BODIES = "SELECT seq, body FROM entries WHERE dataset_id = '{}'"
