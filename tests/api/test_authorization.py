"""Who may do what: every call of the OpenAPI document, by every kind of key, on one's own things and another tenant's.

What the contract gives to whom stands in one table. A call that is not in the table fails the tests, so that nobody
adds one without saying whose it is.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from ledger.access import keys
from ledger.access.keys import PREFIX, tenant_of
from ledger.api.app import create_app
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit.driver import MNIST, RELEASE, Ledger
from tests.kit.scene import NOBODY, REASON, Things, another_tenant, furnished, ok, raised

COLUMNS = ("admin", "steward", "requester", "auditor", "operator", "limited", "project")
"""`limited` is an admin whose key is limited to datasets, `project` a requester limited to a project."""
LIMITED = {f"limited {role}": role for role in ("steward", "requester", "auditor")}
"""Keys of the other roles that are limited to the same datasets: they may do what both of them may."""
WHO = (*COLUMNS, *LIMITED)
TABLE = """
    call                                        admin steward requester auditor operator limited project
    POST   /v1/tenants                            -      -        -        -       x        -       -
    GET    /v1/me                                 x      x        x        x       x        x       x
    GET    /v1/keys                               x      -        -        -       -        -       -
    POST   /v1/keys                               x      -        -        -       -        -       -
    POST   /v1/keys/{id}/rotate                   x      -        -        -       -        -       -
    DELETE /v1/keys/{id}                          x      -        -        -       -        -       -
    GET    /v1/policy                             x      x        x        x       -        x       x
    PUT    /v1/policy                             x      -        -        -       -        -       -
    GET    /v1/alerts                             x      x        x        x       -        x       x
    GET    /v1/alerting                           x      x        x        x       -        x       x
    PUT    /v1/alerting                           x      x        -        -       -        -       -
    POST   /v1/alerting/test                      x      x        -        -       -        -       -
    GET    /v1/datasets/{name}/forecast           x      x        x        x       -        x       x
    GET    /v1/forecasts                          x      x        x        x       -        x       x
    GET    /v1/entries                            x      x        -        x       -        -       -
    GET    /v1/head                               x      x        -        x       -        -       -
    GET    /v1/proof                              x      x        -        x       -        -       -
    GET    /v1/consistency                        x      x        -        x       -        -       -
    GET    /v1/export                             x      x        -        x       -        -       -
    GET    /v1/datasets                           x      x        x        x       -        x       x
    POST   /v1/datasets                           x      x        -        -       -        -       -
    GET    /v1/datasets/{name}                    x      x        x        x       -        x       x
    PATCH  /v1/datasets/{name}                    x      x        -        -       -        x       -
    PUT    /v1/datasets/{name}/budget             x      x        -        -       -        x       -
    GET    /v1/datasets/{name}/partitions         x      x        x        x       -        x       x
    POST   /v1/datasets/{name}/partitions         x      x        -        -       -        x       -
    POST   /v1/datasets/{name}/past-runs          x      x        -        -       -        x       -
    PUT    /v1/datasets/{name}/projects/{project} x      x        -        -       -        x       -
    PUT    /v1/datasets/{name}/fair-use           x      x        -        -       -        x       -
    GET    /v1/datasets/{name}/entries            x      x        -        x       -        -       -
    GET    /v1/datasets/{name}/history            x      x        x        x       -        x       x
    GET    /v1/datasets/{name}/balance            x      x        x        x       -        x       x
    GET    /v1/datasets/{name}/burndown           x      x        x        x       -        x       x
    GET    /v1/overview                           x      x        x        x       -        x       x
    GET    /v1/datasets/{name}/spending           x      x        -        x       -        -       -
    GET    /v1/datasets/{name}/head               x      x        -        x       -        x       -
    GET    /v1/datasets/{name}/proof              x      x        -        x       -        x       -
    GET    /v1/datasets/{name}/consistency        x      x        -        x       -        x       -
    GET    /v1/datasets/{name}/export             x      x        -        x       -        -       -
    GET    /v1/datasets/{name}/report             x      x        -        x       -        x       -
    GET    /v1/projects/{project}/report          x      x        -        x       -        x       -
    GET    /v1/report                             x      x        -        x       -        x       -
    GET    /v1/proposals                          x      x        x        x       -        -       x
    GET    /v1/proposals/{id}                     x      x        x        x       -        x       x
    POST   /v1/proposals/{id}/approve             x      x        -        -       -        x       -
    POST   /v1/proposals/{id}/refuse              x      x        -        -       -        x       -
    GET    /v1/runs                               x      x        x        x       -        x       x
    POST   /v1/runs                               x      -        x        -       -        x       x
    POST   /v1/runs/batch                         x      -        x        -       -        x       x
    GET    /v1/runs/{id}                          x      x        x        x       -        o       x
    GET    /v1/runs/{id}/receipt                  x      x        x        x       -        o       x
    GET    /v1/runs/{id}/attestation              x      x        x        x       -        o       x
    POST   /v1/runs/{id}/start                    x      -        o        -       -        o       o
    POST   /v1/runs/{id}/settle                   x      -        o        -       -        o       o
    PUT    /v1/runs/{id}/progress                 x      -        o        -       -        o       o
    POST   /v1/runs/{id}/void                     x      x        o        -       -        o       o
    POST   /v1/runs/{id}/void   once started      x      x        -        -       -        o       -
    POST   /v1/runs/{id}/confirm                  x      x        -        -       -        o       -
    POST   /v1/runs/{id}/correct                  x      x        -        -       -        o       -
    POST   /v1/runs/{id}/correction               x      x        -        -       -        o       -
    POST   /v1/evaluate                           x      x        x        x       -        x       x
    POST   /v1/plan                               x      x        x        x       -        x       x
    POST   /v1/plan/runs                          x      x        x        x       -        x       x
    GET    /healthz                               x      x        x        x       x        x       x
    GET    /readyz                                x      x        x        x       x        x       x
    GET    /metrics                               x      x        x        x       x        x       x
    GET    /.well-known/jwks.json                 x      x        x        x       x        x       x
"""
"""x: allowed. -: forbidden. o: on one's own runs alone; another's is forbidden, or not there for who may not see it."""

FILE = {"name": "model.safetensors", "sha256": "ab" * 32, "size": 7}
AMENDED = {"mechanism": RELEASE["mechanism"], "decided_by_output": False, "reason": "r"}
OVERRUN = [f"overrun-{number}" for number in range(36)]
"""Datasets to be frozen by a run that reports too much."""
MINE = {"datasets": ["mnist", "mnist.parts", *OVERRUN]}
LIMITS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "limited": ("admin", MINE),
    **{who: (role, MINE) for who, role in LIMITED.items()},
    "project": ("requester", {"projects": ["ranking"]}),
}
ASKED: dict[str, Any] = {**RELEASE, "datasets": ["mnist"], "project": "ranking"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    method: str
    path: str
    is_started: bool
    cells: dict[str, str]


def rows() -> list[Row]:
    """The table."""
    _, *lines = TABLE.strip().splitlines()
    found = []
    for line in lines:
        method, path, *rest = line.split()
        cells = dict(zip(COLUMNS, rest[-len(COLUMNS) :], strict=True))
        cells |= {who: both(cells[role], cells["limited"]) for who, role in LIMITED.items()}
        found.append(Row(method, path, rest[: -len(COLUMNS)] == ["once", "started"], cells))
    return found


def both(of_role: str, of_limit: str) -> str:
    """What is allowed by a role and by the limit of a key."""
    cells = {of_role, of_limit}
    return next(cell for cell in ("-", "o", "x") if cell in cells)


ROWS = rows()


class Scene:
    """A tenant with one of everything, a key of each kind, and as many new things as anyone asks for."""

    def __init__(self, ledger: Ledger) -> None:
        self.things = furnished(ledger)
        self.admin = ledger
        for name in OVERRUN:
            ledger.register(name=name)
        self.clients = {
            who: ledger.as_(LIMITS.get(who, (who,))[0], **LIMITS.get(who, ("", {}))[1])
            for who in WHO
            if who != "operator"
        }
        self.clients["operator"] = ledger.with_key(ledger.operator_key)
        self.somebody = ledger.as_("requester")
        # Of one principal so many are open at once.
        self._proposers = itertools.cycle([ledger, ledger.as_("steward"), ledger.as_("steward")])
        self._numbers = itertools.count()
        self._overrun = iter(OVERRUN)
        self._targets: dict[tuple[str, str, bool, str], str] = {}

    def run(self, by: Ledger, *, is_started: bool) -> str:
        """A new run."""
        made = str(ok(by.post("/v1/runs", ASKED, Idempotency_Key=uuid.uuid4().hex))["id"])
        if is_started:
            ok(by.post(f"/v1/runs/{made}/start"))
        return made

    def reported_run(self, by: Ledger) -> str:
        """A new run, on a dataset of its own, that settled with far too many steps."""
        asker, name = (self.somebody if by is self.clients["project"] else by), next(self._overrun)
        run = str(ok(asker.ask(datasets=[name], key=name))["id"])
        ok(asker.post(f"/v1/runs/{run}/start"))
        assert asker.post(f"/v1/runs/{run}/settle", {"steps": 10**9}).json()["state"] == "started"
        return run

    def new(self) -> str:
        return f"new-{next(self._numbers)}"

    def body(self, method: str, path: str) -> Any:
        """A body that the call takes, where it takes one."""
        bodies: dict[str, Callable[[], Any]] = {
            "POST /v1/tenants": lambda: {"name": self.new()},
            "POST /v1/keys": lambda: {"name": "k", "role": "auditor"},
            "PUT /v1/policy": lambda: {"second_steward": True, **REASON},
            "PUT /v1/alerting": lambda: {"forecast_days": 60, **REASON},
            "POST /v1/datasets": lambda: {**MNIST, "name": self.new()},
            "PATCH /v1/datasets/{name}": lambda: {"title": "t"},
            "PUT /v1/datasets/{name}/budget": lambda: {"budget": {"mu": 999, "delta": 1e-3}, **REASON},
            "POST /v1/datasets/{name}/partitions": lambda: {"names": [self.new()], "disjoint": True},
            "POST /v1/datasets/{name}/past-runs": lambda: {
                "runs": [{"mechanism": RELEASE["mechanism"]}],
                "idempotency_key": self.new(),
                **REASON,
            },
            "PUT /v1/datasets/{name}/projects/{project}": lambda: {"budget": {"mu": 900, "delta": 1e-3}},
            "PUT /v1/datasets/{name}/fair-use": lambda: {"held": {"mu": 900, "delta": 1e-3}, **REASON},
            "POST /v1/proposals/{id}/approve": lambda: REASON,
            "POST /v1/proposals/{id}/refuse": lambda: REASON,
            "POST /v1/runs": lambda: ASKED,
            "POST /v1/runs/batch": lambda: {"runs": [{**ASKED, "idempotency_key": self.new()}]},
            "PUT /v1/runs/{id}/progress": lambda: {"steps": 1},
            "POST /v1/runs/{id}/void": lambda: REASON,
            "POST /v1/runs/{id}/confirm": lambda: REASON,
            "POST /v1/runs/{id}/correct": lambda: {"steps": 1, **REASON},
            "POST /v1/runs/{id}/correction": lambda: AMENDED,
            "POST /v1/evaluate": lambda: {"mechanism": RELEASE["mechanism"]},
            "POST /v1/plan": lambda: ASKED,
            "POST /v1/plan/runs": lambda: {"runs": [ASKED]},
        }
        make = bodies.get(f"{method} {path}")
        return None if make is None else make()

    def target(self, row: Row, run_of: Ledger) -> str:
        """The path of a call, to a thing that it can be done to once; the same until it was done."""
        place = self._place(row, run_of)
        if place not in self._targets:
            self._targets[place] = self._new_target(row, run_of)
        return self._targets[place]

    def keep(self, row: Row, run_of: Ledger, *, is_used: bool) -> None:
        """Whether the call's target can be had again."""
        if is_used:
            del self._targets[self._place(row, run_of)]

    def spent(self) -> dict[str, float]:
        """What datasets have spent, in mu."""
        shown = {name: ok(self.admin.get(f"/v1/datasets/{name}")) for name in ("mnist", "mnist.parts")}
        return {name: one["balance"]["spent"]["mu"] for name, one in shown.items() if one["balance"] is not None}

    @staticmethod
    def _place(row: Row, run_of: Ledger) -> tuple[str, str, bool, str]:
        return row.method, row.path, row.is_started, run_of.key

    def _new_target(self, row: Row, run_of: Ledger) -> str:
        match row.path.split("/")[1:]:
            case ["v1", "runs", "{id}", "confirm" | "correct"]:
                return row.path.replace("{id}", self.reported_run(run_of))
            case ["v1", "runs", "{id}", *rest]:
                is_started = row.is_started or rest in (["settle"], ["progress"], ["attestation"], ["correction"])
                run = self.run(run_of, is_started=is_started)
                if rest in (["attestation"], ["correction"]):
                    ok(run_of.post(f"/v1/runs/{run}/settle", {"models": [FILE]}))
                return row.path.replace("{id}", run)
            case ["v1", "keys", *_]:
                return row.path.replace(
                    "{id}", str(ok(self.admin.post("/v1/keys", self.body("POST", "/v1/keys")))["id"])
                )
            case ["v1", "proposals", "{id}", *_]:
                return row.path.replace("{id}", raised(next(self._proposers)))
            case ["v1", "datasets", "{name}", "partitions"]:
                return row.path.replace("{name}", "mnist.parts")
            case _:
                return self.things.of(row.path)

    def send(self, by: Ledger, row: Row, path: str) -> Any:
        body = self.body(row.method, row.path)
        more = {} if body is None else {"json": body}
        asked = {
            "proof": {"seq": 1},
            "consistency": {"from": 1},
            "balance": {"seq": 1},
            "spending": {"by": "person"},
        }.get(path.rpartition("/")[2])
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return by.request(row.method, path, headers=headers, params=asked, **more)


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """A tenant and its keys, on every database."""
    return Scene(ledger)


def outcome(answer: Any) -> str:
    """What came of a call: done, or the code of the refusal."""
    return "done" if answer.is_success else str(answer.json()["code"])


def test_every_call_is_in_the_table() -> None:
    """Goal: no call that nobody decided on. Method: the table against the OpenAPI document, and that against the
    application's routes, of which none under /v1 may be missing from the document."""
    app = create_app(Settings())
    document = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert {(row.method, row.path) for row in ROWS} == document
    parts: list[Any] = list(app.routes)
    served = {
        (method, route.path_format)
        for part in parts
        for route in (part.original_router.routes if hasattr(part, "original_router") else [part])
        for method in (route.methods or {"every"}) - {"HEAD"}
    }
    assert document <= served
    assert not [path for _, path in served - document if path.startswith("/v1")]


def expected(row: Row, who: str, whose: str) -> str:
    """What comes of a call, by the table."""
    match row.cells[who]:
        case "x":
            return "done"
        case "-" if is_found_first(row, who) and whose != "own":
            return "not-found"
        case "-":
            return "forbidden"
        case "o" if whose == "own":
            return "done"
        case "o":
            return "not-found" if who.startswith("limited") else "forbidden"
        case unknown:
            raise ValueError(unknown)


def is_found_first(row: Row, who: str) -> bool:
    """Whether the run is looked for before it is forbidden, by a key that does not see those of others."""
    return row.is_started and who == "limited requester"


def test_the_document_says_who_may(database: Settings) -> None:
    """Goal: the OpenAPI document, and the reference that is made of it, name the roles that this table gives a call.
    Method: each line of the table, but for what changes once a run was started, against `x-roles`."""
    document = create_app(database).openapi()
    for row in ROWS:
        if row.is_started:
            continue
        by = {who for who in WHO if who not in LIMITS and row.cells[who] != "-"}
        named = document["paths"][row.path][row.method.lower()].get("x-roles")
        assert (by if named is None else set(named)) == by, row
        assert (named is None) == (not row.path.startswith("/v1/")), row


def cases(scene: Scene, row: Row, who: str) -> Iterator[tuple[str, Ledger]]:
    """Whose run a call is tried on; where it is about no run, it is done once."""
    may_ask = next(each for each in ROWS if (each.method, each.path) == ("POST", "/v1/runs")).cells[who] == "x"
    if "/runs/{id}" in row.path:
        yield "another's", scene.somebody
    if "/runs/{id}" not in row.path or may_ask:
        yield "own", scene.clients[who]


def test_every_key_and_every_call(scene: Scene) -> None:
    """Goal: a key opens what the contract gives it, and nothing else. Method: the table, cell by cell, over HTTP; runs
    both of one's own and of somebody else's."""
    wrong, before = [], scene.spent()
    for row, who in itertools.product(ROWS, WHO):
        for whose, run_of in cases(scene, row, who):
            by = scene.clients[who]
            target = scene.target(row, run_of)
            is_change = row.method != "GET" and expected(row, who, whose) == "done"
            answer = scene.send(by, row, target)
            after = scene.spent() if is_change else before
            if any(after[name] < spent for name, spent in before.items()):
                wrong.append((row.method, row.path, who, whose, answer.status_code, "lowers what is spent"))
            before = after
            scene.keep(row, run_of, is_used=answer.is_success)
            if outcome(answer) != expected(row, who, whose):
                wrong.append((row.method, row.path, who, whose, answer.status_code, answer.text[:200]))
    assert not wrong


# --- another tenant's things -----------------------------------------------------------------------------------------


def said(answer: Any, things: Things) -> tuple[int, dict[str, str], str]:
    """All that an answer tells, with the names of the things left out. The id of a request is told anew each time."""
    body = answer.text
    for name in (things.dataset, things.project, things.run, things.key, things.proposal):
        body = body.replace(name, "…")
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in ("x-request-id", "date")}
    return answer.status_code, headers, body


def test_another_tenants_things_are_answered_as_nothing_is(scene: Scene) -> None:
    """Goal: nobody learns that another tenant has something. Method: every call with a name in its path, by every key,
    for what another tenant has and for what nobody has; status, headers and words are the same, and it stays as it was.
    """
    theirs = furnished(another_tenant(scene.admin), dataset="theirs", project="hidden")
    nothing = Things(scene.admin, "nobody", "absent", NOBODY, NOBODY, NOBODY)

    def state() -> list[str]:
        paths = (
            "/v1/datasets/{name}",
            "/v1/datasets/{name}/head",
            "/v1/runs/{id}",
            "/v1/proposals/{id}",
            "/v1/keys",
            "/v1/head",
        )
        return [theirs.admin.get(theirs.of(path)).text for path in paths]

    before = state()
    tried = 0
    for row, who in itertools.product((row for row in ROWS if "{" in row.path), WHO):
        hidden, absent = (scene.send(scene.clients[who], row, things.of(row.path)) for things in (theirs, nothing))
        assert said(hidden, theirs) == said(absent, nothing), (row, who)
        assert outcome(hidden) == ("forbidden" if is_closed(row, who) else "not-found"), (row, who, hidden.text)
        tried += 1
    assert tried == len(WHO) * len([row for row in ROWS if "{" in row.path]) > 100
    assert state() == before


def is_closed(row: Row, who: str) -> bool:
    """Whether a call is forbidden to a key whatever it is about. What only matters once a run was found is not."""
    return row.cells[who] == "-" and not (row.is_started and who in ("requester", "project", "limited requester"))


# --- keys that are none ----------------------------------------------------------------------------------------------


def dead_keys(scene: Scene, database: Settings) -> dict[str, str]:
    """Keys that were good once."""
    made = {
        how: ok(scene.admin.post("/v1/keys", {"name": how, "role": "admin"}))
        for how in ("expired", "revoked", "rotated")
    }
    for key in made.values():
        ok(scene.admin.with_key(key["secret"]).get("/v1/me"))
    ok(scene.admin.delete(f"/v1/keys/{made['revoked']['id']}"))
    ok(scene.admin.post(f"/v1/keys/{made['rotated']['id']}/rotate", {"overlap": "PT0.000001S"}))
    with (
        closing(Store(engine_for(database.owner_url))) as store,
        store.writing(tenant_of(scene.admin.key)) as writing,
    ):
        changes = text("UPDATE keys SET expires_us = created_us + 1 WHERE name = 'expired'")
        assert writing.connection.execute(changes).rowcount == 1
    scene.admin.client.app.state.services.keyring.forget()
    return {how: f"Bearer {key['secret']}" for how, key in made.items()}


def test_no_call_without_a_good_key(scene: Scene, database: Settings) -> None:
    """Goal: authentication comes first, everywhere. Method: every call with no key, with broken, unknown, expired,
    revoked and rotated ones, and a body that is none; what does not need a key takes no notice of one."""
    good = scene.admin.key
    swapped = PREFIX + good[5] + good[4] + good[6:] if good[4] != good[5] else PREFIX + "7" * 64
    dead = dead_keys(scene, database)
    strangers = {
        "unknown": f"Bearer {keys.mint(tenant_of(good))}",
        "of no tenant": f"Bearer {keys.mint(uuid.uuid4())}",
        "of no operator": f"Bearer {keys.mint(keys.OPERATOR)}",
    }
    broken = {
        "none": None,
        "empty": "Bearer ",
        "another scheme": f"Basic {good}",
        "no scheme": good,
        "cut short": f"Bearer {good[:-1]}",
        "a typo": f"Bearer {swapped}",
        "upper case": f"Bearer {good.upper()}",
        "two": f"Bearer {good} {good}",
    }
    before = scene.admin.get("/v1/head").text, scene.admin.get("/v1/datasets/mnist").text
    for row in ROWS:
        path = scene.things.of(row.path)
        words = set()
        for how, header in (broken | strangers | dead).items():
            headers = {} if header is None else {"Authorization": header}
            answer = scene.admin.client.request(row.method, path, headers=headers, content=b"{")
            if not row.path.startswith("/v1"):
                assert answer.status_code == 200, (row, how)
                continue
            assert (answer.status_code, outcome(answer)) == (401, "unauthenticated"), (row, how, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
            assert good not in answer.text
            if how in strangers:
                words.add(answer.text)
            # Only who holds the secret of a key that has ended learns that it has.
            reason = {"revoked": "revoked", "expired": "expired", "rotated": "expired"}.get(how)
            assert answer.json().get("reason") == reason, (row, how)
        assert len(words) <= 1, (row, words)
    assert (scene.admin.get("/v1/head").text, scene.admin.get("/v1/datasets/mnist").text) == before
