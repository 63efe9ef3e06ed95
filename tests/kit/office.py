"""A tenant on an ordinary morning: datasets of each kind, runs in each state, what waits, and hostile names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

HOSTILE = '<script>alert("x")</script>\N{RIGHT-TO-LEFT OVERRIDE}טקסט\' onload=alert(1) {{ 7 * 7 }}'
HELD = {"mu": 0.7, "delta": 1e-6}
LONG = "w\N{LATIN SMALL LETTER O WITH DIAERESIS}rd" * 250
GAUSSIAN = {"type": "gaussian", "noise_multiplier": 5}


@dataclass(frozen=True, slots=True)
class Office:
    """What there is, by id."""

    admin: Ledger
    steward: Ledger
    refused: str
    held: str
    settled: str
    voided: str
    hostile: str
    proposals: dict[str, str]

    @property
    def pages(self) -> dict[str, str]:
        """The pages that there are to open, by what they show."""
        return {
            "overview": "/ui",
            "datasets": "/ui/datasets",
            "register": "/ui/register",
            "dataset": "/ui/datasets/patients",
            "partitions": "/ui/datasets/regions",
            "derived": "/ui/datasets/patients.train",
            "empty": "/ui/datasets/empty",
            "refused": f"/ui/runs/{self.refused}",
            "held": f"/ui/runs/{self.held}",
            "settled": f"/ui/runs/{self.settled}",
            "voided": f"/ui/runs/{self.voided}",
            "hostile": f"/ui/runs/{self.hostile}",
            "approvals": "/ui/approvals",
            "expired": "/ui/approvals?state=expired",
            **{kind: f"/ui/approvals/{id_}" for kind, id_ in self.proposals.items()},
            "planner": "/ui/planner?dataset=patients&vary=noise_multiplier&values=0.5,2,5",
            "planner of a run": f"/ui/planner?dataset=patients&run={self.refused}&type=gaussian&noise_multiplier=3",
            "search": "/ui/search?dataset=patients",
            "report": "/ui/report?dataset=patients&from=2025-01-01",
            "alerts": "/ui/alerts",
            "keys": "/ui/keys",
            "policy": "/ui/policy",
            "missing": "/ui/datasets/nothing",
        }


def furnished(admin: Ledger) -> Office:
    """Furnish a new tenant."""
    steward = admin.as_("steward")
    admin.register(
        name="patients",
        title="Hospital records",
        description=f"All of 2025. {HOSTILE}",
        bound="certified",
        costing="standalone",
        budget={"epsilon": 3, "at_delta": 1e-5},
        ceiling={"epsilon": 8, "at_delta": 1e-5},
    )
    ok(admin.put("/v1/datasets/patients/projects/ranking", {"budget": {"epsilon": 1.5, "at_delta": 1e-5}}))
    ok(admin.put("/v1/datasets/patients/fair-use", {"held": HELD, "runs_per_hour": 200, **REASON}))
    admin.register(name="regions", partitions=[f"region-{number:02}" for number in range(40)])
    admin.register(name="empty")
    origin = [{"name": "patients", "unit_preserving": True}]
    ok(admin.post("/v1/datasets", {"name": "patients.train", "derived_from": origin}))
    runs = [_asked(admin, purpose=f"baseline {number}", labels={"trial": str(number)}) for number in range(4)]
    project = _asked(admin, project="ranking", purpose="ranking with a share")
    hostile = _asked(admin, purpose=HOSTILE, labels={"note": HOSTILE, "long": LONG[:255]})
    for number in range(12):
        uses = [{"name": "regions", "partitions": [f"region-{one:02}" for one in range(number, 12)]}]
        assert admin.ask(GAUSSIAN, datasets=uses).status_code == 201
    held, settled, voided = runs[:3]
    ok(admin.post(f"/v1/runs/{settled}/start"))
    ok(admin.post(f"/v1/runs/{settled}/settle", {"stop": "planned"}))
    ok(admin.post(f"/v1/runs/{project}/start"))
    ok(admin.post(f"/v1/runs/{voided}/void", {"reason": "The job never began."}))
    refusal = admin.ask({"type": "gaussian", "noise_multiplier": 0.5}, datasets=["patients"], purpose="far too much")
    assert refusal.status_code == 409, refusal.text
    ok(admin.put("/v1/policy", {"second_steward": True, **REASON}))
    proposals = {
        "budget": _proposed(
            admin.put(
                "/v1/datasets/patients/budget",
                {"budget": {"epsilon": 4, "at_delta": 1e-5}, "reason": f"The board agreed. {HOSTILE}"},
            )
        ),
        "partition": _proposed(
            admin.post("/v1/datasets/regions/partitions", {"names": ["region-40"], "disjoint": True, **REASON})
        ),
        "share": _proposed(
            admin.put("/v1/datasets/patients/projects/ranking", {"budget": {"epsilon": 2, "at_delta": 1e-5}, **REASON})
        ),
        "fair use": _proposed(
            admin.put("/v1/datasets/patients/fair-use", {"held": {**HELD, "mu": 0.9}, "runs_per_hour": 300, **REASON})
        ),
        "void": _proposed(admin.post(f"/v1/runs/{project}/void", {"reason": "Nobody saw any output."})),
    }
    return Office(
        admin=admin,
        steward=steward,
        refused=refusal.json()["run"],
        held=held,
        settled=settled,
        voided=voided,
        hostile=hostile,
        proposals=proposals,
    )


def _asked(by: Ledger, **changes: Any) -> str:
    answer = by.ask({"type": "gaussian", "noise_multiplier": 6}, datasets=["patients"], **changes)
    return str(ok(answer)["id"])


def _proposed(answer: Any) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.json()["proposal"]["id"])
