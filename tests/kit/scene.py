"""Two tenants of one ledger, each with one of everything, all of it made through the API."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from ledger.core.people import Actor
from tests.kit.accountant import DPSGD
from tests.kit.driver import MNIST, WEAK, Ledger
from tests.kit.pages import Visitor

NOBODY = str(uuid.UUID(int=1))
"""The id of nothing."""
REASON = {"reason": "for the test"}


@dataclass(frozen=True, slots=True)
class Things:
    """What a tenant has, by the name under which paths ask for it."""

    admin: Ledger
    dataset: str
    project: str
    run: str
    key: str
    proposal: str

    def of(self, path: str) -> str:
        """A path of the OpenAPI document with this tenant's things in it."""
        by = {"datasets": self.dataset, "runs": self.run, "keys": self.key, "proposals": self.proposal}
        name = next((name for kind, name in by.items() if path.startswith(f"/v1/{kind}/")), "")
        return path.replace("{name}", name).replace("{id}", name).replace("{project}", self.project)


def ok(answer: Any) -> Any:
    """What an answer says that has to be good."""
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def furnished(admin: Ledger, *, dataset: str = "mnist", project: str = "ranking") -> Things:
    """Gives a tenant one of everything: a row, at least, in every table that tenants have."""
    budget = {"mu": 1000, "delta": 0.001}
    ok(admin.post("/v1/datasets", {**MNIST, "name": dataset, "bound": "certified", "budget": budget, **WEAK}))
    ok(admin.post("/v1/evaluate", {"mechanism": DPSGD}))  # the cost alone, which is kept
    origin = [{"name": dataset, "unit_preserving": True}]
    ok(admin.post("/v1/datasets", {"name": f"{dataset}.copy", "derived_from": origin}))
    ok(admin.post("/v1/datasets", {**MNIST, "name": f"{dataset}.parts", "partitions": ["a"]}))
    share = {"budget": {"mu": 900, "delta": 0.0009}}
    ok(admin.put(f"/v1/datasets/{dataset}/projects/{project}", share))
    ok(admin.put(f"/v1/datasets/{dataset}/fair-use", {"held": budget, **REASON}))
    asked = admin.ask(DPSGD, datasets=[f"{dataset}.copy"], key=f"{dataset}-copy")
    started = ok(admin.post(f"/v1/runs/{ok(asked)['id']}/start"))["id"]
    ok(admin.put(f"/v1/runs/{started}/progress", {"steps": 1}))
    run = ok(admin.ask(datasets=[dataset], project=project, key=dataset))["id"]
    key = ok(admin.post("/v1/keys", {"name": "somebody", "role": "auditor"}))["id"]
    ok(admin.put("/v1/policy", {"second_steward": True, **REASON}))
    ok(admin.post("/v1/alerting/test"))
    proposal = raised(admin, dataset)
    Visitor.signed_in(admin)
    return Things(admin, dataset, project, run, key, proposal)


def raised(by: Ledger, dataset: str = "mnist") -> str:
    """Proposes a budget that is a little higher than it is now; the proposal's id."""
    delta = ok(by.get(f"/v1/datasets/{dataset}"))["budget"]["delta"]
    answer = by.put(f"/v1/datasets/{dataset}/budget", {"budget": {"mu": 1000, "delta": delta + 1e-6}, **REASON, **WEAK})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["proposal"]["id"])


def somebody(*, tenant: int = 0, key: int = 0) -> Actor:
    """A caller that no database knows, by the numbers of its tenant and key."""
    key_id = uuid.UUID(int=(tenant << 64) + key)
    return Actor(uuid.UUID(int=tenant), key_id, key_id, f"somebody {key}", "admin")


def another_tenant(ledger: Ledger, name: str = "globex") -> Ledger:
    """A second tenant's admin."""
    operator = ledger.with_key(ledger.operator_key)
    return ledger.with_key(ok(operator.post("/v1/tenants", {"name": name}))["key"]["secret"])
