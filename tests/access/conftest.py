"""Issuers on the loopback, for the tests of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.access.keys import tenant_of
from ledger.settings import Settings
from tests.kit.driver import Ledger, application, first_keys
from tests.kit.inside import InsideClient
from tests.kit.issuer import TENANT, House, Issuer, running


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """A CI system's issuer: RSA, found by discovery."""
    with running("RS256") as made:
        yield made


@pytest.fixture
def house(database: Settings, issuer: Issuer, tmp_path: Path) -> Iterator[House]:
    """The application as `LEDGER_OIDC_FILE` sets it up, on each database."""
    first = first_keys(database)
    tenant = str(tenant_of(first.admin_key))
    with running("ES256") as cluster:
        on_main = {"claims": {"repository": "acme/train", "ref": "refs/heads/*"}, "role": "requester"}
        trainers = {"claims": {"sub": "system:serviceaccount:ml:*"}, "role": "requester"}
        people = [{"claims": {"groups": role}, "tenant": tenant, "role": role} for role in ("admin", "steward")]
        lost = {"claims": {"sub": "nowhere"}, "tenant": str(TENANT), "role": "admin"}
        said = [
            issuer.said(*people, lost, {**on_main, "tenant": tenant, "datasets": ["mnist"]}, leeway_seconds=0),
            cluster.said({**trainers, "tenant": tenant}, jwks_uri=f"{cluster.url}/keys"),
        ]
        file = tmp_path / "oidc.json"
        file.write_text(json.dumps({"issuers": said}))
        app = application(database.model_copy(update={"oidc_file": file}))
        with InsideClient(app) as client:
            yield House(Ledger(client, first.admin_key, operator_key=first.operator_key), issuer, cluster)
