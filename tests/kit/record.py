"""Records what this version writes, for the versions after it to be held to (`tests.operate.test_recorded`).

python -m tests.kit.record > tests/cases/revision_0005.json

A ledger on SQLite, in a folder that is thrown away, in which everything happens over HTTP: the scene of the reports,
and beside it segments, a batch, a key of each fate, alerting, a proposal that stays open, and a second tenant. Every
row is read from the file itself. The keys and the signing key open nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ledger import __version__
from ledger import recompute as recomputing
from ledger.operate import deploy
from ledger.settings import Settings
from ledger.store.tables import metadata
from ledger.verifier.jws import PublicKeys, SigningKey
from ledger.verifier.verify import Verified, verify
from tests.kit.driver import MNIST, RELEASE, Ledger
from tests.kit.report_scene import SGD, Told, gaussian, told
from tests.kit.scene import REASON, another_tenant, ok

DATASETS = ("ads", "ads.eu", "clicks", "papers", "papers.parts")
PATHS = (
    "/v1/me",
    "/v1/datasets",
    "/v1/runs",
    "/v1/policy",
    "/v1/keys",
    "/v1/proposals",
    "/v1/alerting",
    "/v1/alerts",
    "/v1/head",
    *(f"/v1/datasets/{name}/head" for name in DATASETS),
    "/v1/datasets/clicks/partitions",
    "/v1/datasets/ads/report",
)
"""What an admin is shown, and is compared."""
REPEATED: dict[str, dict[str, Any]] = {
    "batch-0": {**RELEASE, "datasets": ["papers.parts"], "mechanism": gaussian(30)},
    "batch-1": {**RELEASE, "datasets": ["papers.parts"], "mechanism": gaussian(0.1)},
}
"""Requests by their idempotency key, one that is approved and one that is refused."""


def scene(admin: Ledger) -> Told:
    """Everything that the set has of the tenant of this admin."""
    found = told(admin)
    ok(found.requester.put(f"/v1/runs/{found.runs['running']}/progress", {"steps": 3}))
    ok(found.one.post("/v1/datasets", {**MNIST, "name": "papers.parts", "partitions": ["a", "b"]}))
    found.ask("segments", "ads", {**SGD, "steps": 100, "noise_multiplier": 4}, segments=2, project="search")
    found.settle("segments", steps=40, stop="data_dependent")
    batch = [{**body, "idempotency_key": key} for key, body in REPEATED.items()]
    results = ok(found.requester.post("/v1/runs/batch", {"runs": batch}))["results"]
    assert [result["status"] for result in results] == [201, 409]
    rotated, revoked = (ok(admin.post("/v1/keys", {"name": name, "role": "auditor"}))["id"] for name in ("old", "gone"))
    ok(admin.post(f"/v1/keys/{rotated}/rotate"))
    ok(admin.delete(f"/v1/keys/{revoked}"))
    ok(admin.put("/v1/alerting", {"thresholds": [60, 95], "forecast_days": None, "reason": "fewer of them"}))
    ok(admin.post("/v1/alerting/test"))
    thaw = found.one.patch("/v1/datasets/papers", {"state": "active", **REASON})
    assert thaw.status_code == 202, thaw.text
    return found


def neighbour(admin: Ledger) -> Ledger:
    """A second tenant, with a run under a key that the first one has too."""
    other = another_tenant(admin)
    ok(other.post("/v1/datasets", MNIST))
    ok(other.ask(key="batch-0"))
    return other


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    """Every row of every table, in an order in which what is referred to comes first; bytes as {"hex": …}."""
    found: dict[str, dict[str, Any]] = {}
    with closing(sqlite3.connect(file)) as connection:
        for table in metadata.sorted_tables:
            order = ", ".join(column.name for column in table.primary_key)
            rows = connection.execute(f"SELECT * FROM {table.name} ORDER BY {order}")
            names = [column[0] for column in rows.description]
            values = [[{"hex": each.hex()} if isinstance(each, bytes) else each for each in row] for row in rows]
            found[table.name] = {"columns": names, "rows": values}
    return found


def verdict(export: str, keys: PublicKeys) -> dict[str, Any]:
    """What the verifier says of an export that holds."""
    found = verify(export.splitlines(), keys=keys)
    said = {
        "tenant": found.tenant,
        "seq": found.journal.seq,
        "head": found.journal.head.hex(),
        "root": found.vouched.root.hex(),
        "kid": found.vouched.kid,
    }
    if not isinstance(found, Verified):
        keys_then = {str(id_): [key.name, key.role, key.is_revoked] for id_, key in found.journal.keys.items()}
        return {**said, "second_steward": found.journal.second_steward, "keys": keys_then}
    accounts = [{**account.key.facts(), **account.facts()} for account in found.journal.accounts.values()]
    runs = {str(run): [state, cost.facts()] for run, (state, cost) in found.journal.runs.items()}
    return {**said, "dataset": found.dataset, "state": found.journal.state, "accounts": accounts, "runs": runs}


def recomputed(export: str) -> dict[str, Any]:
    """What working every cost out again comes to."""
    found = recomputing.recompute(export.splitlines(), with_exact=False, with_opinion=False)
    spent = [[account.spent.facts(), account.held.facts(), account.first_over] for account in found.accounts]
    return {"as_recorded": found.is_as_recorded, "counts": dict(found.counts), "accounts": spent}


def record(folder: Path) -> dict[str, Any]:
    """The whole set."""
    database, signing_key, heads_dir = folder / "ledger.db", SigningKey.generate().pem(), folder / "heads"
    settings = Settings(
        database_url=SecretStr(f"sqlite:///{database}"), signing_key=SecretStr(signing_key), heads_dir=heads_dir
    )
    revision = deploy.migrate(settings)
    with Ledger.open(settings) as admin:
        found, other = scene(admin), neighbour(admin)
        keys = ok(admin.client.get("/.well-known/jwks.json"))
        known = PublicKeys.of(keys)
        exports = {name: admin.get(f"/v1/datasets/{name}/export").text for name in DATASETS}
        tenant_export = admin.get("/v1/export").text
        people = {"admin": admin, "steward": found.one, "requester": found.requester, "other": other}
        said = {
            "about": f"Every row of a ledger at revision {revision}, as version {__version__} wrote it, and what it"
            " answered.",
            "revision": revision,
            "keys": {**{name: who.key for name, who in people.items()}, "operator": admin.operator_key},
            "signing_key": signing_key,
            "jwks": keys,
            "runs": found.runs,
            "receipts": {
                name: ok(found.requester.get(f"/v1/runs/{found.runs[name]}/receipt"))["receipt"]
                for name in ("held", "running")
            },
            "exports": exports,
            "tenant_export": tenant_export,
            "verdicts": {name: verdict(text, known) for name, text in {**exports, "": tenant_export}.items()},
            "recomputed": {name: recomputed(text) for name, text in exports.items()},
            "answers": {
                key: found.requester.post("/v1/runs", body, Idempotency_Key=key).json()
                for key, body in REPEATED.items()
            },
            "shown": {path: ok(admin.get(path)) for path in PATHS},
        }
    heads = {str(path.relative_to(heads_dir)): path.read_text("ascii") for path in sorted(heads_dir.rglob("*.jws"))}
    return {**said, "heads": heads, "tables": rows_of(database)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        members = record(Path(made)).items()
    lines = [
        f"{json.dumps(name)}:{json.dumps(said, ensure_ascii=False, separators=(',', ':'))}" for name, said in members
    ]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
