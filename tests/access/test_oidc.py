"""Tokens of OpenID Connect issuers that are good: an issuer that the test runs, and the real application."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from ledger.access import issuers, keys
from ledger.access.keys import Keyring, tenant_of
from ledger.core.people import Actor
from ledger.settings import Settings
from ledger.store import Store, Writing
from tests.kit.clocks import change_clock
from tests.kit.driver import MNIST, RELEASE, Ledger, first_keys
from tests.kit.issuer import AUDIENCE, HOUR_US, TENANT, Clock, House, Issuer, Trust, running

REPOSITORY = {
    "repository": "acme/train",
    "repository_owner": "acme",
    "ref": "refs/heads/main",
    "runner_environment": "self-hosted",
}


def job(issuer: Issuer, branch: str = "main", **changes: Any) -> str:
    """A token as a CI system gives it to a job, another one each time."""
    subject = f"repo:acme/train:ref:refs/heads/{branch}"
    claims = {**REPOSITORY, "ref": f"refs/heads/{branch}", "jti": uuid.uuid4().hex, "sub": subject, **changes}
    return issuer.token(**claims)


def account(issuer: Issuer, name: str, **changes: Any) -> str:
    """A token as Kubernetes projects it into a pod: a list of audiences, nested claims, no `typ`."""
    where = {"namespace": "ml", "serviceaccount": {"name": name, "uid": str(uuid.uuid4())}}
    subject = f"system:serviceaccount:ml:{name}"
    claims = {"aud": ["other", AUDIENCE], "kubernetes.io": where, "sub": subject, **changes}
    return issuer.token({"typ": None}, **claims)


def test_a_ci_job_runs_without_a_stored_key(house: House) -> None:
    """Goal: the principal of a token is its issuer and subject, its limits are those of the rule.

    Method: a job asks, starts and settles by three tokens of one subject; other branches and datasets are not there.
    """
    house.ledger.register()
    house.ledger.register(name="adult")
    asked = house.by(job(house.ci)).ask(key="one")
    assert asked.status_code == 201, asked.text
    run = asked.json()["id"]
    assert house.by(job(house.ci)).ask(key="one").headers["idempotent-replayed"] == "true"
    other = house.by(job(house.ci, "dev"))
    assert other.post(f"/v1/runs/{run}/start").status_code == 404
    theirs = other.ask(key="one")
    assert (theirs.status_code, "idempotent-replayed" in theirs.headers) == (201, False)
    assert house.by(job(house.ci)).post(f"/v1/runs/{run}/start").status_code == 200
    assert house.by(job(house.ci)).post(f"/v1/runs/{run}/settle", {}).json()["state"] == "settled"
    me = house.by(job(house.ci))
    assert [item["name"] for item in me.get("/v1/datasets").json()["items"]] == ["mnist"]
    assert me.ask(datasets=["adult"]).status_code == 404
    assert me.post("/v1/datasets", {**MNIST, "name": "more"}).status_code == 403
    entries = house.ledger.get("/v1/datasets/mnist/entries").json()["items"]
    subject = "repo:acme/train:ref:refs/heads/main"
    principal = str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, house.ci.url), subject))
    actor = {"key": principal, "principal": principal, "name": f"127.0.0.1:{subject}", "role": "requester"}
    mine = [entry["entry"] for entry in entries if entry["entry"].get("run") == run]
    assert [entry["actor"] for entry in mine] == [actor] * 3
    assert house.ci.fetched == ["/.well-known/openid-configuration", "/keys"]


def test_a_service_account_runs_without_a_stored_key(house: House) -> None:
    """Goal: a pod works with what Kubernetes gives it; another account of the rule is another principal."""
    house.ledger.register()
    run = house.by(account(house.cluster, "trainer")).ask().json()["id"]
    other = house.by(account(house.cluster, "other"))
    for verb, body in (("start", None), ("settle", {}), ("void", {"reason": "r"})):
        answer = other.post(f"/v1/runs/{run}/{verb}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert house.by(account(house.cluster, "trainer")).post(f"/v1/runs/{run}/start").status_code == 200
    assert house.by(account(house.cluster, "trainer")).post(f"/v1/runs/{run}/settle", {}).status_code == 200
    assert house.by(account(house.cluster, "x", sub="system:serviceaccount:dev:x")).get("/v1/runs").status_code == 401
    assert house.cluster.fetched == ["/keys"]


def test_people_sign_in_by_their_groups(house: House) -> None:
    """Goal: a list claim stands for what it contains, and the first rule that matches counts."""
    steward = house.by(house.ci.token(sub="ann", groups=["staff", "steward"]))
    assert steward.post("/v1/datasets", MNIST).status_code == 201
    assert steward.post("/v1/keys", {"name": "k", "role": "auditor"}).status_code == 403
    admin = house.by(house.ci.token(sub="bob", groups=["steward", "admin"]))
    made = admin.post("/v1/keys", {"name": "k", "role": "auditor"})
    assert made.status_code == 201, made.text
    assert admin.delete(f"/v1/keys/{made.json()['id']}").status_code == 204
    assert house.by(house.ci.token(sub="eve", groups=["staff"])).get("/v1/datasets").status_code == 401


def test_tokens_that_end_while_a_request_waits(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nothing is written for a token that is over when the writer comes to it.

    Method: good tokens; the writer's time, which is the database's, is an hour later.
    """
    house.ledger.register()
    admin = house.by(house.ci.token(sub="bob", groups=["admin"]))
    held, started = (admin.ask(key=key).json()["id"] for key in ("held", "started"))
    assert admin.post(f"/v1/runs/{started}/start").status_code == 200
    before = house.ledger.get("/v1/datasets/mnist").json()
    with monkeypatch.context() as patched:
        change_clock(patched, lambda now: now + HOUR_US, to=Writing)
        for answer in (
            admin.ask(key="new"),
            admin.post("/v1/runs/batch", {"runs": [{**RELEASE, "idempotency_key": "b"}], "atomic": True}),
            admin.post(f"/v1/runs/{held}/start"),
            admin.post(f"/v1/runs/{held}/void", {"reason": "r"}),
            admin.post(f"/v1/runs/{started}/settle", {}),
            admin.post("/v1/datasets", {**MNIST, "name": "adult"}),
            admin.patch("/v1/datasets/mnist", {"title": "t"}),
            admin.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "more"}),
            admin.post("/v1/keys", {"name": "k", "role": "admin"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), answer.text
        assert house.ledger.get("/v1/datasets/mnist").json() == before
        assert house.ledger.patch("/v1/datasets/mnist", {"title": "t"}).status_code == 200  # a key goes on
    assert admin.ask(key="new").status_code == 201  # the idempotency key was let go


def test_a_good_token_is_remembered_no_longer_than_it_is_good(
    store: Store, database: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the cache of keys does not prolong a token. Method: a cache of an hour, a token of ten minutes."""
    tenant = str(tenant_of(first_keys(database).admin_key))
    rule = {"claims": {"sub": "job"}, "tenant": tenant, "role": "auditor"}
    clock = Clock()
    keyring = Keyring(store, Trust(issuer.said(rule, leeway_seconds=0)).issuers, clock=clock)
    monkeypatch.setattr(keys, "CACHE_SECONDS", 3600)
    token = issuer.token()
    actor = keyring.recognise(token)
    assert isinstance(actor, Actor)
    assert (str(actor.tenant_id), actor.is_key) == (tenant, False)
    start = clock.now
    for later, known in ((590, actor), (601, None)):
        clock.now = start + later
        assert keyring.remembered(token) == known


def test_the_databases_clock_counts_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a token that is over by the database's clock is refused when it is shown. Method: that clock, later."""
    admin = house.by(house.ci.token(sub="bob", groups=["admin"]))
    change_clock(monkeypatch, lambda now: now + HOUR_US)
    assert admin.get("/v1/datasets").status_code == 401


def test_tokens_mean_nothing_where_no_issuer_is_configured(ledger: Ledger, issuer: Issuer) -> None:
    """Goal: without LEDGER_OIDC_FILE nothing of a token is read."""
    answer = ledger.with_key(issuer.token()).get("/v1/datasets")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert issuer.fetched == []


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"])
def test_algorithms(algorithm: str) -> None:
    """Goal: what can be configured works, whether or not the issuer says of a key which algorithm it is for.

    Method: an issuer of each algorithm; then its key without `alg`, as Microsoft's issuers publish theirs.
    """
    with running(algorithm) as issuer:
        token = issuer.token()
        actor = Trust(issuer.said()).actor(token)
        assert actor.role == "requester"
        del issuer.published["keys"][0]["alg"], issuer.published["keys"][0]["use"]
        assert Trust(issuer.said()).actor(token) == actor


def test_actors(issuer: Issuer) -> None:
    """Goal: everything of an actor comes from the rule and the token."""
    rule = {
        "claims": {"sub": "job"},
        "tenant": str(TENANT),
        "role": "auditor",
        "datasets": ["a", "b"],
        "projects": ["p"],
    }
    end = int(time.time()) + 100
    actor = Trust(issuer.said(rule, leeway_seconds=30)).actor(issuer.token(exp=end + 0.9))
    assert (actor.tenant_id, actor.role) == (TENANT, "auditor")
    assert (actor.datasets, actor.projects) == (frozenset({"a", "b"}), frozenset({"p"}))
    assert actor.expires_us == (end + 30) * 1_000_000
    long = Trust(issuer.said()).actor(issuer.token(sub="s" * 1024))
    assert len(long.name) == 255
    assert (long.datasets, long.projects, long.is_key) == (None, None, False)
    assert long.principal_id == long.key_id != actor.principal_id


def test_one_subject_of_two_issuers_is_two_principals(issuer: Issuer) -> None:
    """Goal: an issuer cannot speak for another's subjects. Method: the same subject of two issuers that are trusted."""
    with running("ES256") as other:
        trust = Trust(issuer.said(), other.said())
        assert trust.actor(issuer.token()).principal_id != trust.actor(other.token()).principal_id
        # The other's signature under this one's name, also where both use one algorithm and kid.
        assert trust.reason(other.token(iss=issuer.url)) == "algorithm"
    with running("RS256") as other:
        other.rotate("two")
        trust = Trust(issuer.said(), other.said())
        assert trust.reason(other.token({"kid": "one"}, iss=issuer.url)) == "signature"


MATCHING: list[tuple[Any, Any, bool]] = [
    ("main", "main", True),
    ("main", "mainline", False),
    ("main", "Main", False),
    ("main", None, False),
    ("acme/*", "acme/train", True),
    ("acme/*", "acme/", True),
    ("acme/*", "acme", False),
    ("acme/*", "evil/acme/train", False),
    ("acme/*", ["evil/x", "acme/y"], True),
    ("a", ["b", "a"], True),
    ("a", ["b", "ab"], False),
    ("a", [["a"]], False),
    ("a", [], False),
    ("a", {"a": "a"}, False),
    (True, True, True),
    (True, 1, False),
    (1, True, False),
    (1, 1.0, False),
    (7, 7, True),
    ("7", 7, False),
    ("true", True, False),
]


@pytest.mark.parametrize(("wanted", "value", "matches"), MATCHING)
def test_what_a_rule_matches(wanted: Any, value: Any, matches: bool) -> None:
    """Goal: equality with the same type, a prefix before a final *, an element of a list; nothing else."""
    rule = issuers.Rule.model_validate_json(
        json.dumps({"claims": {"claim": wanted}, "tenant": str(TENANT), "role": "auditor"})
    )
    assert rule.matches({"claim": value} if value is not None else {}) == matches
