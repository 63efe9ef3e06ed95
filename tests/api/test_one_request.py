"""What a request leaves behind, and what is read to show it: rows and bytes, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from sqlalchemy import func, select

from ledger.canonical import canonical
from ledger.service.requests.fields import NOTES_BYTES_MAX
from ledger.settings import Settings
from ledger.store import tables
from ledger.store.sizes import PAGE_BYTES_MAX
from tests.kit.driver import RELEASE, Ledger, past_the_ledger
from tests.kit.scene import ok

NAMES: Final = [f"data-{number:02}" for number in range(40)]
TOO_MUCH: Final = {"type": "gaussian", "noise_multiplier": 0.01}
NOTES: Final = {"purpose": "p" * 3000, "labels": {"why": "w" * 250}}
PARTITIONS: Final = [f"{number:04}{'x' * 59}" for number in range(1000)]
TABLES: Final = (tables.entries, tables.places, tables.runs, tables.claims)


def rows(settings: Settings) -> dict[str, int]:
    """How many rows there are of what a decision writes."""
    engine = past_the_ledger(settings)
    with engine.connect() as connection:
        counts = {table.name: connection.execute(select(func.count()).select_from(table)).scalar() for table in TABLES}
    engine.dispose()
    return {name: count or 0 for name, count in counts.items()}


def bodies(settings: Settings, run: str) -> list[str]:
    """The entries of a run, as they are stored."""
    engine = past_the_ledger(settings)
    with engine.connect() as connection:
        query = select(tables.entries.c.body).where(tables.entries.c.run_id.is_not(None))
        found = [body for body in connection.execute(query).scalars() if f'"run":"{run}"' in body]
    engine.dispose()
    return found


# --- what is written -------------------------------------------------------------------------------------------------


def test_a_refusal_has_its_request_once(ledger: Ledger, database: Settings) -> None:
    """Goal: what a refusal leaves for good grows with its datasets by what is said of each, and not by the request.
    Method: one that reaches 40 datasets; its rows, the entries that have what was sent, and their bytes."""
    for name in NAMES:
        ledger.register(name=name)
    before = rows(database)
    request = {"datasets": NAMES, "mechanism": TOO_MUCH, **NOTES}
    run = ledger.post("/v1/runs", request, Idempotency_Key="once").json()["run"]
    after = rows(database)
    assert {name: after[name] - before[name] for name in after} == {
        "entries": len(NAMES),
        "places": len(NAMES),
        "runs": 1,
        "claims": 1,
    }
    stored = sorted(bodies(database, run), key=len)
    *others, first = map(json.loads, stored)
    assert (first["dataset"], first["request"]) == (NAMES[0], request)
    assert first["binding_elsewhere"] == NAMES[1:]
    place = {"id": first["dataset_id"], "dataset": NAMES[0], "seq": first["seq"]}
    assert all(entry["request_in"] == place and "request" not in entry for entry in others)
    assert all(entry["binding_elsewhere"] == [] for entry in others)
    written, sent = sum(map(len, stored)), len(json.dumps(request))
    print(f"a refusal of {sent:,} bytes that reaches {len(NAMES)} datasets leaves {written:,} bytes")
    assert len(stored[-2]) < 1400
    assert written < 2 * sent + len(NAMES) * 1400


def test_what_is_only_kept_is_short(ledger: Ledger, database: Settings) -> None:
    """Goal: nobody keeps a file in a journal. Method: purpose and labels that are too long together, and evidence that
    is by itself; the answer names each with its size, and nothing is written."""
    ledger.register()
    run = ok(ledger.ask())["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    before = rows(database)
    half = "n" * (NOTES_BYTES_MAX // 2)
    labels = {str(number): "l" * 200 for number in range(12)}
    asked = ledger.ask(purpose=half, labels=labels)
    settled = ledger.post(f"/v1/runs/{run}/settle", {"evidence": {"log": 2 * half}})
    for answer, listed in (
        (asked, (f"purpose {len(canonical(half)):,}", f"labels {len(canonical(labels)):,}")),
        (settled, (f"evidence {len(canonical({'log': 2 * half})):,}",)),
    ):
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "invalid-request"), problem
        for part in (*listed, f"{NOTES_BYTES_MAX:,}"):
            assert part in problem["detail"], problem
    assert rows(database) == before
    assert ledger.ask(purpose=half).status_code == 201
    assert ok(ledger.post(f"/v1/runs/{run}/settle", {"evidence": {"log": half}}))["state"] == "settled"


def test_refusals_of_one_principal_are_bounded(database: Settings) -> None:
    """Goal: nobody fills a journal with refusals. Method: one more than the setting allows within an hour, alone and in
    batches; nothing is written of it. What was refused before is answered again, what fits is approved, and others are
    not concerned."""
    with Ledger.open(database.model_copy(update={"refusals_per_hour": 3})) as ledger:
        ledger.register()
        by, other = ledger.as_("requester"), ledger.as_("requester")
        for number in range(3):
            assert by.ask(TOO_MUCH, key=f"refused-{number}").status_code == 409
        before = rows(database)
        answer = by.ask(TOO_MUCH, key="one-more")
        assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
        assert 0 < int(answer.headers["retry-after"]) <= 3601
        items = [{**RELEASE, "mechanism": TOO_MUCH, "idempotency_key": key} for key in ("refused-1", "new")]
        results = ok(by.post("/v1/runs/batch", {"runs": items}))["results"]
        assert [(result["status"], result["replayed"]) for result in results] == [(409, True), (429, False)]
        again = by.ask(TOO_MUCH, key="refused-0")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (409, "true")
        assert rows(database) == before
        assert by.ask().status_code == 201
        assert other.ask(TOO_MUCH).status_code == 409


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusals(kept_database: Settings) -> Iterator[Ledger]:
    """A ledger with 39 refused runs that name 1,000 partitions each."""
    with Ledger.open(kept_database) as ledger:
        ledger.register(name="parts", partitions=PARTITIONS)
        ledger.register(name="other")
        use = {"name": "parts", "partitions": PARTITIONS}
        batch = [{"datasets": [use, "other"], "mechanism": TOO_MUCH} for _ in range(13)]
        for number in range(3):
            runs = [{**run, "idempotency_key": f"{number}-{index}"} for index, run in enumerate(batch)]
            ok(ledger.post("/v1/runs/batch", {"runs": runs}))
        yield ledger


def walk(ledger: Ledger, path: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """Every page of a list: the bytes of its answer, and its items."""
    pages, cursor = [], None
    while True:
        answer = ledger.get(path, limit=1000, **({} if cursor is None else {"cursor": cursor}))
        body = ok(answer)
        pages.append((len(answer.content), body["items"]))
        cursor = body["next"]
        if cursor is None:
            return pages


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/datasets/parts/entries", "/v1/datasets/other/entries"])
def test_pages_stop_at_bytes(refusals: Ledger, path: str) -> None:
    """Goal: no page is larger than its bound and one item more, however many are asked for. Method: refused runs that
    name 1,000 partitions; pages one after another have each item once."""
    pages = walk(refusals, path)
    sizes, items = [size for size, _ in pages], [item for _, page in pages for item in page]
    ids = [item.get("id", item.get("seq")) for item in items]
    assert len(set(ids)) == len(ids) == (39 if path == "/v1/runs" else 40)
    largest = max(len(json.dumps(item)) for item in items)
    assert len(pages) > 1
    assert max(sizes) < PAGE_BYTES_MAX + largest
    print(f"{path}: {len(pages)} pages of at most {max(sizes):,} bytes; {sum(sizes):,} in all")
