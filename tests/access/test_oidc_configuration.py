"""The file that names OpenID Connect issuers: what cannot be meant is refused before the server starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ledger.access import keys
from ledger.access.issuers import secret_of
from ledger.access.oidc import Issuers
from ledger.api.app import create_app
from ledger.errors import Misconfigured
from ledger.settings import Settings
from tests.kit.issuer import TENANT

SECRET = "hunter2"
RULE = {"claims": {"sub": "x"}, "tenant": str(TENANT), "role": "auditor"}
SAID = {"issuer": "https://issuer.example", "audience": "a", "algorithms": ["RS256"], "rules": [RULE]}


def with_rule(**changes: Any) -> dict[str, Any]:
    """A good rule, and one with something wrong."""
    return {"rules": [RULE, {**RULE, **changes}]}


MISCONFIGURED: list[tuple[dict[str, Any], str]] = [
    ({"issuer": "http://issuer.example"}, "issuers.0.issuer: must begin with https://"),
    ({"issuer": "http://127.0.0.1.issuer.example"}, "issuers.0.issuer: must begin with https://"),
    ({"issuer": "ftp://127.0.0.1"}, "issuers.0.issuer: must begin with https://"),
    ({"issuer": f"https://user:{SECRET}@issuer.example"}, "issuers.0.issuer: must have a host, and neither a user"),
    ({"issuer": "https://issuer.example#x"}, "issuers.0.issuer: must have a host, and neither a user"),
    ({"issuer": "https://issuer.example?x=1"}, "issuers.0.issuer: must have no query"),
    ({"issuer": "issuer.example"}, "issuers.0.issuer: must have a host"),
    ({"issuer": "https://[::1"}, "issuers.0.issuer: is not a URL"),
    ({"jwks_uri": "http://issuer.example/keys"}, "issuers.0.jwks_uri: must begin with https://"),
    ({"jwks_uri": 7}, "issuers.0.jwks_uri: "),
    ({"audience": ""}, "issuers.0.audience: "),
    ({"audience": None}, "issuers.0.audience: "),
    ({"algorithms": []}, "issuers.0.algorithms: "),
    ({"algorithms": ["none"]}, "issuers.0.algorithms.0: "),
    ({"algorithms": ["RS256", "HS256"]}, "issuers.0.algorithms.1: "),
    ({"algorithms": "RS256"}, "issuers.0.algorithms: "),
    ({"leeway_seconds": 301}, "issuers.0.leeway_seconds: "),
    ({"leeway_seconds": "60"}, "issuers.0.leeway_seconds: "),
    ({"rules": []}, "issuers.0.rules: "),
    ({"secret": SECRET}, "issuers.0.secret: is not a field here"),
    ({"client_id": ""}, "issuers.0.client_id: "),
    ({"client_id": "a b"}, "issuers.0.client_id: "),
    ({"client_secret": {"variable": "X"}}, "issuers.0: has a `client_secret` without a `client_id`"),
    ({"client_id": "a", "client_secret": SECRET}, "issuers.0.client_secret: "),
    ({"client_id": "a", "client_secret": {}}, "issuers.0.client_secret: must have either `file` or `variable`"),
    (
        {"client_id": "a", "client_secret": {"file": "/x", "variable": "X"}},
        "issuers.0.client_secret: must have either `file` or `variable`",
    ),
    ({"client_id": "a", "scopes": ["email"]}, "issuers.0.scopes: must have `openid`"),
    ({"client_id": "a", "scopes": ["openid", "a b"]}, "issuers.0.scopes.1: "),
    (with_rule(claims={}), "issuers.0.rules.1.claims: "),
    (with_rule(claims={"sub": "*"}), "issuers.0.rules.1.claims.sub"),
    (with_rule(claims={"sub": "a*b*"}), "issuers.0.rules.1.claims.sub"),
    (with_rule(claims={"sub": [SECRET]}), "issuers.0.rules.1.claims.sub"),
    (with_rule(claims={"sub": None}), "issuers.0.rules.1.claims.sub"),
    (with_rule(tenant=SECRET), "issuers.0.rules.1.tenant: "),
    (with_rule(tenant=str(keys.OPERATOR)), "issuers.0.rules.1.tenant: is not a tenant's id"),
    (with_rule(role="operator"), "issuers.0.rules.1.role: "),
    (with_rule(datasets=[]), "issuers.0.rules.1.datasets: "),
    (with_rule(projects=[""]), "issuers.0.rules.1.projects.0: "),
    (with_rule(dataset=["mnist"]), "issuers.0.rules.1.dataset: is not a field here. Did you mean datasets?"),
]


@pytest.mark.parametrize(("changes", "says"), MISCONFIGURED)
def test_misconfigured(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """Goal: what cannot be meant is refused before the server starts, naming the field and showing nothing else."""
    file = tmp_path / "oidc.json"
    file.write_text(json.dumps({"issuers": [{**SAID, **changes}]}))
    with pytest.raises(Misconfigured, match=re.escape(f"{file}: {says}")) as raised:
        Issuers.load(file)
    assert SECRET not in str(raised.value)


def test_files_that_are_none(tmp_path: Path, database: Settings) -> None:
    """Goal: the same for the file itself, and the application does not start with it."""
    file = tmp_path / "oidc.json"
    said = json.dumps({"issuers": [SAID]})
    for text, says in (
        (None, "cannot be read: No such file"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", ": "),
        (b"{}", "issuers: is required"),
        (b'{"issuers": []}', "issuers: "),
        (json.dumps({"issuers": [SAID, SAID]}).encode(), "issuers: must not name an issuer twice"),
        (said.replace('"role"', '"role": "admin", "role"').encode(), "has the same member twice"),
    ):
        if text is not None:
            file.write_bytes(text)
        with pytest.raises(Misconfigured, match=re.escape(says)):
            create_app(database.model_copy(update={"oidc_file": file}))
    file.write_text(said)
    Issuers.load(file)


def test_the_secret_of_a_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a server that could not sign anybody in does not start, and shows no secret. Method: files and variables
    that are missing, empty, or have what cannot be sent; two issuers whose sign-ins would have one address."""
    file, secret = tmp_path / "oidc.json", tmp_path / "secret"

    def load(**kept: str) -> Issuers:
        file.write_text(json.dumps({"issuers": [{**SAID, "client_id": "a", "client_secret": kept}]}))
        return Issuers.load(file)

    monkeypatch.delenv("CLIENT_SECRET", raising=False)
    for text in (None, "", " \n", f"{SECRET}\nX", f"{SECRET}\N{SNOWMAN}"):
        if text is not None:
            secret.write_text(text)
            monkeypatch.setenv("CLIENT_SECRET", text)
        for kept in ({"file": str(secret)}, {"variable": "CLIENT_SECRET"}):
            with pytest.raises(
                Misconfigured, match=r"secret.*(cannot be read|must have the client_secret)|CLIENT_SECRET"
            ) as raised:
                load(**kept)
            assert SECRET not in str(raised.value)
    secret.write_text(f"{SECRET}\n")
    (one,) = load(file=str(secret)).of_people
    assert secret_of(one) == SECRET
    assert SECRET not in repr(one)
    alike = [{**SAID, "client_id": "a"}, {**SAID, "issuer": "https://issuer-example", "client_id": "a"}]
    file.write_text(json.dumps({"issuers": alike}))
    with pytest.raises(Misconfigured, match="issuers: has two issuers with a client_id"):
        Issuers.load(file)
