"""Entries that a restore lost are put back from exports, exactly as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.errors import InvalidRequest, JournalBroken
from ledger.operate.check import check_journals
from ledger.operate.put_back import put_back
from ledger.operate.restored import check_kept
from ledger.settings import Settings
from ledger.verifier.jws import PublicKeys
from tests.kit.driver import Ledger
from tests.kit.scene import ok
from tests.recovery.test_restored import BIG, REST, Site, site

__all__ = ["site"]


def exports_of(ledger: Ledger, *names: str) -> dict[str, list[str]]:
    return {name: ledger.get(f"/v1/datasets/{name}/export").text.splitlines() for name in names}


def keys_of(ledger: Ledger) -> PublicKeys:
    return PublicKeys.of(ledger.get("/.well-known/jwks.json").json())


def live(ledger: Ledger) -> None:
    """Something of every kind, on datasets that exist, in two journals at once, and on a new one."""
    ledger.register(name="younger", budget={"mu": 2}, partitions=["a", "b"])
    ok(ledger.ask(datasets=["younger"]))
    ok(ledger.put("/v1/datasets/one/projects/vision", {"budget": {"mu": 0.5}}))
    ok(ledger.put("/v1/datasets/one/fair-use", {"runs_per_hour": 100, "waits_above_percent": 50, "reason": "x"}))
    ok(ledger.patch("/v1/datasets/two", {"title": "Two", "reason": "x"}))
    small = {"type": "gaussian", "noise_multiplier": 9}
    runs = [ok(ledger.ask(small, datasets=["one", "two"], key=f"both-{number}")) for number in range(3)]
    ok(ledger.post(f"/v1/runs/{runs[0]['id']}/start"))
    ok(ledger.post(f"/v1/runs/{runs[0]['id']}/settle", {}))
    truth = {"type": "gaussian", "noise_multiplier": 8}
    ok(
        ledger.post(
            f"/v1/runs/{runs[0]['id']}/correction", {"mechanism": truth, "reason": "x", "decided_by_output": False}
        )
    )
    ok(ledger.post(f"/v1/runs/{runs[1]['id']}/void", {"reason": "not needed"}))
    ok(ledger.post(f"/v1/runs/{runs[2]['id']}/start", {"token": "of-host-1"}))
    ok(ledger.ask(small, datasets=["leaf"], key="of-leaf"))
    ok(ledger.ask({"type": "gaussian", "noise_multiplier": 20}, datasets=["one"], project="vision"))
    assert ledger.ask({"type": "gaussian", "noise_multiplier": 0.5}, datasets=["two"]).status_code == 409
    assert ledger.ask(BIG, datasets=["one"], key="waits").status_code == 409  # it waits for a steward
    ok(ledger.put("/v1/datasets/two/budget", {"budget": {"mu": 0.9}, "reason": "less"}))
    ok(ledger.patch("/v1/datasets/two", {"state": "frozen", "reason": "x"}))


@pytest.fixture
def lost(site: Site) -> tuple[Site, Settings, dict[str, list[str]], PublicKeys]:
    """A ledger, a backup of it from before much happened, and exports from after."""
    with site.served() as ledger:
        for name in ("one", "two"):
            ledger.register(name=name)
        derived = {"name": "leaf", "derived_from": [{"name": "one", "unit_preserving": True}], "budget": {"mu": 1}}
        ok(ledger.post("/v1/datasets", {**REST, **derived, "privacy_unit": "record"}))
        ok(ledger.ask(datasets=["one"]))
    backup = site.copy(site.settings)
    with site.served() as ledger:
        live(ledger)
        exports, keys = exports_of(ledger, "one", "two", "leaf", "younger"), keys_of(ledger)
    return site, backup.model_copy(update={"kept_heads_file": site.settings.kept_heads}), exports, keys


def test_everything_is_as_it_was(lost: tuple[Site, Settings, dict[str, list[str]], PublicKeys]) -> None:
    """Goal: after entries were put back, the restored ledger is the one that was lost: exports are byte for byte the
    same, balances too, a repeated request has its own answer, and decisions go on. Method: something of every kind; all
    rows by `check`; the heads that the server kept; then a server."""
    site, backup, exports, keys = lost
    with site.served() as ledger:
        before = {name: ledger.get(f"/v1/datasets/{name}").json() for name in exports}
    assert {found["dataset"] for found in check_kept(backup)} == {"one", "two", "leaf", "younger"}
    done = put_back(backup, exports, keys=keys)
    assert {(each.dataset, each.last) for each in done} == {(name, len(lines) - 2) for name, lines in plain(exports)}
    assert [found["error"] for found in check_journals(backup)] == [None] * 5
    assert list(check_kept(backup)) == []
    assert all(each.first > each.last for each in put_back(backup, exports, keys=keys))
    with site.served(backup) as ledger:
        assert "contradicted" not in ok(ledger.get("/readyz"))
        assert exports_of(ledger, *exports) == exports
        assert {name: ledger.get(f"/v1/datasets/{name}").json() for name in exports} == before
        repeated = ledger.ask({"type": "gaussian", "noise_multiplier": 9}, datasets=["one", "two"], key="both-2")
        assert (repeated.status_code, repeated.headers["idempotent-replayed"]) == (201, "true")
        starts = [ledger.post(f"/v1/runs/{repeated.json()['id']}/start", {"token": f"of-host-{n}"}) for n in (1, 2)]
        assert [answer.status_code for answer in starts] == [200, 409]
        assert ok(ledger.ask(datasets=["younger"]))["state"] == "held"


def plain(exports: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """The exports without the lines of requests that stand in other journals."""
    return [(name, [line for line in lines if not line.startswith('{"request":')]) for name, lines in exports.items()]


def test_what_is_not_put_back(lost: tuple[Site, Settings, dict[str, list[str]], PublicKeys], tmp_path: Path) -> None:
    """Goal: nothing is added of an export that was changed, that is another ledger's, or that lacks a journal which its
    runs reach; and after the database went another way. Method: each, and the database as it was."""
    site, backup, exports, keys = lost
    forged = [line.replace("both-1", "both-9") for line in exports["one"]]
    with pytest.raises(JournalBroken):
        put_back(backup, exports | {"one": forged}, keys=keys)
    with pytest.raises(InvalidRequest, match="at least one"):
        put_back(backup, {}, keys=keys)
    assert {found["dataset"] for found in check_kept(backup)} == {"one", "two", "leaf", "younger"}
    for part, lacking in ((("one",), ["leaf", "two"]), (("two",), ["one"]), (("leaf", "two"), ["one"])):
        with pytest.raises(InvalidRequest, match="Add the exports of") as refused:
            put_back(backup, {name: exports[name] for name in part}, keys=keys)
        assert set(lacking) <= set(refused.value.facts["lacking"])
    put_back(backup, {"younger": exports["younger"]}, keys=keys)
    assert {found["dataset"] for found in check_kept(backup)} == {"one", "two", "leaf"}
    with site.served(backup, kept=tmp_path / "another machine's") as ledger:
        ok(ledger.ask(datasets=["two"]))
    with pytest.raises(InvalidRequest, match="has other entries by now"):
        put_back(backup, exports, keys=keys)
    with site.served(backup) as ledger:
        assert ledger.ask(datasets=["two"]).json()["code"] == "journal-contradicted"
