"""A database that was put back to an earlier point gives no budget back: it is noticed, with no settings."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.access.keys import tenant_of
from ledger.core.entries import Entry
from ledger.operate.check import check_journals
from ledger.operate.deploy import FirstKeys
from ledger.recovery.file import HeadsFile
from ledger.recovery.keeper import Keeper
from ledger.recovery.known import Contradiction, End, Known
from ledger.settings import Settings
from ledger.store import Store, engine_for
from ledger.verifier.jws import PublicKeys
from ledger.verifier.verify import verify
from tests.conftest import KINDS, Templates
from tests.kit import independent_verifier, postgres
from tests.kit.databases import file_of
from tests.kit.driver import KNOWN, Ledger, application
from tests.kit.inside import InsideClient
from tests.kit.scene import ok
from tests.signer.test_heads import changed

BIG = {"type": "gaussian", "noise_multiplier": 1.2}
"""A run of mu 0.833: two of them do not fit in a budget of mu 1."""


class Site:
    """A database with its first keys, copies of it, and what a server keeps next to it."""

    def __init__(self, settings: Settings, first: FirstKeys, copy: Callable[[Settings], Settings]) -> None:
        self.settings, self.first, self.copy = settings, first, copy

    @contextlib.contextmanager
    def served(
        self, settings: Settings | None = None, *, kept: Path | None = None, published: Path | None = None
    ) -> Iterator[Ledger]:
        """The application on the database, or on a copy of it; the file of kept heads is the same, or `kept`."""
        more = {"kept_heads_file": kept or self.settings.kept_heads, "heads_dir": published, "watch_seconds": 3600}
        chosen = (settings or self.settings).model_copy(update=more)
        with InsideClient(application(chosen)) as client:
            yield Ledger(client, self.first.admin_key, operator_key=self.first.operator_key, tenant=self.first.tenant)


def _store(settings: Settings) -> contextlib.closing[Store]:
    return contextlib.closing(Store(engine_for(settings.database_url.get_secret_value())))


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Site]:
    """A ledger whose database can be copied while nobody serves it."""
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(templates.clone(request.param, tmp_path, is_begun=True))

        def copy(original: Settings) -> Settings:
            name = f"copy_{uuid.uuid4().hex}"
            if original.is_sqlite:
                shutil.copyfile(file_of(original), tmp_path / f"{name}.db")
                url, key = SecretStr(f"sqlite:///{tmp_path / name}.db"), f"{file_of(original)}.signing-key.pem"
                return original.model_copy(update={"database_url": url, "signing_key_file": Path(key)})
            server = templates.server(request.param)
            owner = postgres.create_database(server, name, template=str(make_url(original.owner_url).database))
            stack.callback(postgres.drop_database, server, name)
            served = make_url(original.database_url.get_secret_value()).set(database=name)
            url = SecretStr(served.render_as_string(hide_password=False))
            return original.model_copy(update={"database_url": url, "owner_database_url": SecretStr(owner)})

        yield Site(settings, KNOWN.pop(settings.database_url.get_secret_value()), copy)


def test_what_was_approved_after_the_backup_is_not_approved_again(site: Site) -> None:
    """Goal: a restored ledger decides nothing on a dataset of which it lost entries, and says so; others go on. Method:
    a copy from before an approval of 0.833 of a budget of 1, served next to the heads that the server kept."""
    with site.served() as ledger:
        for name in ("lost", "whole"):
            ledger.register(name=name)
    backup = site.copy(site.settings)
    with site.served() as ledger:
        run = ok(ledger.ask(BIG, datasets=["lost"]))
        ok(ledger.post(f"/v1/runs/{run['id']}/start"))
        ledger.register(name="younger")
    with site.served(backup) as ledger:
        refused = ledger.ask(BIG, datasets=["lost"])
        assert (refused.status_code, refused.json()["code"]) == (409, "journal-contradicted")
        assert "entries 2 to 3 are missing" in refused.json()["detail"]
        assert (refused.json()["kept_seq"], refused.json()["stored_seq"]) == (3, 1)
        assert ledger.patch("/v1/datasets/lost", {"title": "x"}).json()["code"] == "journal-contradicted"
        assert ok(ledger.ask(BIG, datasets=["whole"]))["state"] == "held"
        again = ledger.post("/v1/datasets", {"name": "younger", "privacy_unit": "record", "budget": {"mu": 1}, **REST})
        assert again.json()["code"] == "journal-contradicted"
        assert ledger.get("/v1/datasets/lost/head").json()["code"] == "journal-broken"
        assert ok(ledger.get("/v1/datasets/whole/head"))["seq"] == 2
        ready = ledger.get("/readyz")
        assert ready.status_code == 200
        assert sorted(each["missing"] for each in ready.json()["contradicted"]) == [
            "entries 2 to 3 are missing",
            "entry 1 is missing",
        ]
        told = ok(ledger.get("/v1/alerts", kind="mismatch"))["items"]
        assert "entries 2 to 3 are missing" in {each["event"]["reason"] for each in told}
    with site.served() as ledger:
        assert ledger.ask(BIG, datasets=["lost"]).json()["code"] == "budget-exceeded"
        assert ok(ledger.ask({"type": "gaussian", "noise_multiplier": 5}, datasets=["lost"]))["state"] == "held"


REST = {"adjacency": "add_or_remove_one", "bound": "clt", "size": 60000, "accepts_weak_protection": True}


def test_a_run_on_what_is_derived_from_a_contradicted_dataset(site: Site) -> None:
    """Goal: neither a derived dataset nor its root decides a run that was lost. Method: a run on a derived dataset,
    whose cost its root lost too; and a run on the derived one after only the root's entries were lost."""
    with site.served() as ledger:
        ledger.register(name="root")
        derived = {"name": "leaf", "derived_from": [{"name": "root", "unit_preserving": True}]}
        ok(ledger.post("/v1/datasets", {**REST, **derived, "privacy_unit": "record", "budget": {"mu": 1}}))
    backup = site.copy(site.settings)
    with site.served() as ledger:
        ok(ledger.ask(BIG, datasets=["root"]))
    with site.served(backup) as ledger:
        ledger.register(name="whole")
        for name in ("root", "leaf"):
            assert ledger.ask(BIG, datasets=[name]).json()["code"] == "journal-contradicted"
            run = {"mechanism": BIG, "datasets": [name]}
            assert ledger.post("/v1/plan", run).json()["code"] == "journal-contradicted"
            for most in (False, True):
                both = {"runs": [run, {**run, "datasets": ["whole"]}], "as_many_as_fit": most}
                planned = ok(ledger.post("/v1/plan/runs", both))
                first = planned["runs"][0]
                assert (first["fits"], first["code"]) == (False, "journal-contradicted")


def test_a_database_that_is_put_back_under_a_running_server(site: Site) -> None:
    """Goal: the very next decision is refused, whether entries are gone or others. Method: rows changed behind the
    server's back, in one case to a history of the same length."""
    with site.served() as ledger:
        for name in ("gone", "other", "whole"):
            ledger.register(name=name)
            ok(ledger.ask(datasets=[name]))
        gone, other = (f"(SELECT id FROM datasets WHERE name = '{name}')" for name in ("gone", "other"))
        zeros = "zeroblob(32)" if site.settings.is_sqlite else r"decode(repeat('00', 32), 'hex')"
        changed(
            site.settings,
            f"DELETE FROM places WHERE dataset_id = {gone}",
            f"DELETE FROM entries WHERE seq > 1 AND dataset_id = {gone}",
            "UPDATE datasets SET seq = 1 WHERE name = 'gone'",
            f"UPDATE datasets SET head = {zeros} WHERE id = {other}",
        )
        assert "entry 2 is missing" in ledger.ask(datasets=["gone"]).json()["detail"]
        assert "entry 2 is not the one" in ledger.ask(datasets=["other"]).json()["detail"]
        assert ok(ledger.ask(datasets=["whole"]))["state"] == "held"


@pytest.mark.parametrize("file", ["none", "unreadable", "older", "newest"])
def test_what_the_writer_noticed_is_not_forgotten(site: Site, tmp_path: Path, file: str) -> None:
    """Goal: a contradiction lasts until the entries are back, whatever the file of kept heads has. Method: four entries
    are committed, of which the file has none, two or all; the journal is put back to the third; the decision notices,
    and then the comparison that runs from time to time finds nothing else. A new process on the file knows it too."""
    with site.served() as ledger:
        ledger.register(name="lost")
        for _ in range(3):
            ok(ledger.ask(datasets=["lost"]))
        tenant_id = tenant_of(ledger.key)
    path = None if file == "none" else tmp_path / "kept-heads"
    with _store(site.settings) as store, store.reading(tenant_id) as reading:
        (dataset,) = reading.datasets.page(after=None, limit=1, only=None)
        entries = reading.journals.page(dataset.id, after=0, limit=10)
    known = Known()
    with _store(site.settings) as store:
        keeper = Keeper(store, known, path)
        keeper.committed(tenant_id, entries[: {"older": 2, "newest": 4}.get(file, 0)], is_of_tenant=False)
        keeper._keep()  # as every quarter of a second
        keeper.committed(tenant_id, entries, is_of_tenant=False)
        if file == "unreadable" and path is not None:
            path.write_text("not a database")
    changed(
        site.settings,
        "DELETE FROM places WHERE seq > 3",
        "DELETE FROM entries WHERE seq > 3",
        "UPDATE datasets SET seq = 3, head = (SELECT hash FROM entries WHERE seq = 3)",
    )
    with _store(site.settings) as store:
        keeper._store = store
        with store.reading(tenant_id) as reading:
            (stored,) = reading.datasets.page(after=None, limit=1, only=None)
        for _ in range(2):
            known.refusals(tenant_id, [stored], {})  # as before a decision
            assert known.refusal_on(tenant_id, [stored.id]) is not None
            keeper.check()
        assert [found.kept.seq for found in known.contradicted.values()] == [4]
        if file in ("older", "newest"):
            assert path is not None
            assert {end.seq for (_, id_), end in HeadsFile(path).all() if id_ == stored.id} == {4}


def test_a_comparison_from_before_a_write_off_is_out_of_date() -> None:
    """Goal: a write-off opens the dataset at once. Method: what a comparison that began before it found, told after."""
    journal = tenant_id, dataset_id = uuid.uuid4(), uuid.uuid4()
    lost, known = Contradiction(End(4, b"4" * 32, "lost"), 3), Known()
    known.contradict(journal, lost)
    before = known.answers(journal)
    record = {"dataset": "lost", "lost": {"seq": 4}}
    known.committed(tenant_id, [Entry(dataset_id, 4, "budget-set", 1, None, "", b"5" * 32, record=record)])
    known.contradict(journal, lost, answers=before)
    assert known.refusal_on(tenant_id, [dataset_id]) is None
    known.contradict(journal, lost, answers=known.answers(journal))
    assert known.refusal_on(tenant_id, [dataset_id]) is not None


def test_the_file_has_every_head_and_nothing_else(site: Site) -> None:
    """Goal: one row for each journal, its newest head, after a server that ended. Method: the file against the rows,
    after runs on one dataset and a change of another."""
    with site.served() as ledger:
        for name in ("a", "b"):
            ledger.register(name=name)
        for _ in range(5):
            ok(ledger.ask(datasets=["a"]))
        heads = {name: ok(ledger.get(f"/v1/datasets/{name}/head")) for name in ("a", "b")}
    assert site.settings.kept_heads is not None
    kept = {end.name: (end.seq, end.hash.hex()) for _, end in HeadsFile(site.settings.kept_heads).all()}
    assert kept.pop("")[0] >= 1  # the tenant's own
    assert kept == {name: (head["seq"], head["hash"]) for name, head in heads.items()}
    assert site.settings.kept_heads.stat().st_mode & 0o777 == 0o600


def lose(site: Site) -> tuple[Settings, dict[str, Any], str]:
    """A backup, and what was lost after it: what the error of the restored ledger names, and the lost run's receipt."""
    with site.served() as ledger:
        ledger.register(name="lost")
        ok(ledger.ask(datasets=["lost"]))
    backup = site.copy(site.settings)
    with site.served() as ledger:
        receipt = ok(ledger.ask({"type": "gaussian", "noise_multiplier": 1.3}, datasets=["lost"]))["receipt"]
    with site.served(backup) as ledger:
        error = ledger.ask(datasets=["lost"]).json()
    return backup, error, receipt


def test_the_cost_of_lost_runs_is_written_off(site: Site) -> None:
    """Goal: a lower limit that accounts for the lost runs opens the dataset again, once a steward thaws it; nothing
    less does, what was lost is never approved again, and the journal states all of it. Method: limits that are too
    high, a receipt of another run, the whole way on; the export by both verifiers, and the rows; then a server that
    starts."""
    backup, error, receipt = lose(site)
    lost = {"seq": error["kept_seq"], "hash": error["kept_hash"], "receipts": [receipt]}
    path, reason = "/v1/datasets/lost/budget", "the backup of Sunday was restored"
    with site.served(backup) as ledger:
        without = ledger.put(path, {"budget": {"mu": 0.6}, "reason": reason})
        assert without.json()["code"] == "journal-contradicted"
        other = ledger.put(path, {"budget": {"mu": 0.6}, "reason": reason, "lost": lost | {"hash": "00" * 32}})
        assert other.json()["code"] == "journal-contradicted"
        too_high = ledger.put(path, {"budget": {"mu": 0.64}, "reason": reason, "lost": lost})
        assert too_high.json()["code"] == "invalid-request", too_high.text
        assert too_high.json()["highest"]["mu"] < 0.64
        forged = ledger.put(
            path, {"budget": {"mu": 0.6}, "reason": reason, "lost": lost | {"receipts": [receipt[:-4]]}}
        )
        assert forged.json()["field"] == "lost.receipts.0"
        written_off = ok(ledger.put(path, {"budget": {"mu": 0.6}, "reason": reason, "lost": lost}))
        assert written_off["state"] == "frozen"
        assert ledger.ask(datasets=["lost"]).json()["code"] == "dataset-frozen"
        assert "contradicted" not in ok(ledger.get("/readyz"))
        ok(ledger.patch("/v1/datasets/lost", {"state": "active", "reason": "reviewed"}))
        assert ledger.ask(BIG, datasets=["lost"]).json()["code"] == "budget-exceeded"
        assert ok(ledger.ask(datasets=["lost"]))["state"] == "held"
        export, jwks = ledger.get("/v1/datasets/lost/export").text, ledger.get("/.well-known/jwks.json").json()
        assert independent_verifier.verify(export.splitlines())[0] == 6
        assert verify(export.splitlines(), keys=PublicKeys.of(jwks)).journal.seq == 6
    assert [found["error"] for found in check_journals(backup)] == [None, None]
    with site.served(backup) as ledger:
        assert ok(ledger.ask(datasets=["lost"]))["state"] == "held"


def test_two_people_write_off(site: Site) -> None:
    """Goal: where the policy asks for two people, one alone cannot go on without what was lost. Method: the policy,
    then a write-off by one steward and its approval by another."""
    with site.served() as ledger:
        ok(ledger.put("/v1/policy", {"second_steward": True, "reason": "x"}))
    backup, error, receipt = lose(site)
    with site.served(backup) as ledger:
        lost = {"seq": error["kept_seq"], "hash": error["kept_hash"], "receipts": [receipt]}
        one, two = ledger.as_("steward"), ledger.as_("steward")
        body = {"budget": {"mu": 0.6}, "reason": "restored", "lost": lost}
        proposed = one.put("/v1/datasets/lost/budget", body)
        assert proposed.status_code == 202, proposed.text
        assert ledger.ask(datasets=["lost"]).json()["code"] == "journal-contradicted"
        ok(two.post(f"/v1/proposals/{proposed.json()['proposal']['id']}/approve", {}))
        assert until_decided(ledger) == "dataset-frozen"
    assert [found["error"] for found in check_journals(backup)] == [None, None]


def test_a_contradicted_dataset_is_retired(site: Site) -> None:
    """Goal: a dataset that cannot be written off is retired, which settles nothing else: it and what is derived from it
    stay closed, also after a restart. Method: the entry takes the number of the one that was lost; a retirement with
    something beside it is refused; then the rows."""
    backup, _, _ = lose(site)
    path = "/v1/datasets/lost"
    with site.served(backup) as ledger:
        more = ledger.patch(path, {"state": "retired", "title": "Lost", "reason": "restored"})
        assert more.json()["code"] == "journal-contradicted"
        assert ok(ledger.patch(path, {"state": "retired", "reason": "restored"}))["state"] == "retired"
    for _ in range(2):
        with site.served(backup) as ledger:
            assert len(ok(ledger.get("/readyz"))["contradicted"]) == 1
            assert ledger.ask(datasets=["lost"]).json()["code"] == "journal-contradicted"
            assert ledger.patch(path, {"state": "active", "reason": "x"}).json()["code"] == "journal-contradicted"
            assert ledger.get(f"{path}/head").json()["code"] == "journal-broken"
    assert [found["error"] for found in check_journals(backup)] == [None, None]


def until_decided(ledger: Ledger) -> str:
    """The code of a refusal, as soon as it is no contradiction any more: a comparison that began before the write-off
    may state that once more."""
    due = time.monotonic() + 60
    while (code := str(ledger.ask(datasets=["lost"]).json()["code"])) == "journal-contradicted":
        assert time.monotonic() < due
    return code


def until_contradicted(ledger: Ledger) -> list[dict[str, Any]]:
    """What /readyz lists, as soon as it does."""
    due = time.monotonic() + 60
    while "contradicted" not in (ready := ok(ledger.get("/readyz"))):
        assert time.monotonic() < due
    found: list[dict[str, Any]] = ready["contradicted"]
    return found


def test_published_heads_stop_decisions_too(site: Site, tmp_path: Path) -> None:
    """Goal: a restore is noticed by published heads where the file of kept heads is gone. Method: the folder of one
    server, and another server on a backup, with no other file."""
    with site.served(published=tmp_path / "heads") as ledger:
        ledger.register(name="lost")
    backup = site.copy(site.settings)
    with site.served(published=tmp_path / "heads") as ledger:
        ok(ledger.ask(BIG, datasets=["lost"]))
    with site.served(backup, kept=tmp_path / "none", published=tmp_path / "heads") as ledger:
        assert [each["missing"] for each in until_contradicted(ledger)] == ["entry 2 is missing"]
        assert ledger.ask(BIG, datasets=["lost"]).json()["code"] == "journal-contradicted"


def test_another_process_that_went_on_from_another_history(site: Site, tmp_path: Path) -> None:
    """Goal: what this process knew is looked up before it is forgotten, when another one has written in between.
    Method: an entry is replaced behind its back, a server that knows nothing of it writes the next one, and then this
    one does."""
    with site.served() as ledger:
        ledger.register(name="lost")
        ok(ledger.ask(datasets=["lost"]))
        zeros = "zeroblob(32)" if site.settings.is_sqlite else r"decode(repeat('00', 32), 'hex')"
        changed(site.settings, "DELETE FROM places", f"UPDATE entries SET hash = {zeros} WHERE seq = 2")
        with site.served(kept=tmp_path / "another machine's") as other:
            ok(other.ask(datasets=["lost"]))
        ok(ledger.ask(datasets=["lost"]))  # nobody can tell yet: the end is where it may be
        (found,) = until_contradicted(ledger)
        assert found["missing"] == "entry 2 is not the one that was acknowledged"
        assert ledger.ask(datasets=["lost"]).json()["code"] == "journal-contradicted"
