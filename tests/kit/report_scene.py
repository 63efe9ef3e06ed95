"""A tenant in which everything happened that a report tells of, all of it done through the API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.kit.driver import MNIST, Ledger
from tests.kit.scene import ok

HOSTILE = "<script>alert('x')</script> & \"quotes\" – naïve Ω"
FORMULA = '=HYPERLINK("http://example.invalid","x")'
CODE = {"repository": "https://git.example/ranking", "commit": "8f14e45fceea167a5a36dedd4bea2543"}
MODELS = [
    {"name": f"{HOSTILE}.safetensors", "sha256": "ab" * 32, "size": 12_345},
    {"name": "config.json", "sha256": "cd" * 32, "size": 0},
]
SGD: dict[str, Any] = {
    "type": "dpsgd",
    "noise_multiplier": 1.3,
    "sampling": "poisson",
    "sample_rate": 0.00426667,
    "steps": 3515,
}


def gaussian(noise: float, count: int = 1) -> dict[str, Any]:
    """So many releases with Gaussian noise."""
    return {"type": "gaussian", "noise_multiplier": noise, "count": count}


@dataclass(slots=True)
class Told:
    """Who did it, and the ids of what was done, by what it is."""

    admin: Ledger
    one: Ledger
    two: Ledger
    requester: Ledger
    limited: Ledger
    runs: dict[str, str] = field(default_factory=dict)
    middle: str = ""
    """A time after which the second half happened."""

    def ask(self, name: str, dataset: Any, mechanism: dict[str, Any], **more: Any) -> str:
        answer = self.requester.ask(mechanism, datasets=[dataset], key=f"key of {name}".replace(" ", "-"), **more)
        assert answer.status_code in (201, 409), answer.text
        self.runs[name] = run = str(answer.json()["id" if answer.status_code == 201 else "run"])
        return run

    def start(self, name: str) -> str:
        ok(self.requester.post(f"/v1/runs/{self.runs[name]}/start"))
        return self.runs[name]

    def settle(self, name: str, **body: Any) -> None:
        answer = self.requester.post(f"/v1/runs/{self.start(name)}/settle", body)
        assert answer.status_code in (200, 409), answer.text


def told(admin: Ledger) -> Told:
    """Everything, on four datasets: `ads` (certified, with projects), `clicks` (partitioned), `papers` (estimates, and
    overrun), and `ads.eu`, which is derived from `ads`."""
    found = Told(admin, admin.as_("steward"), admin.as_("steward"), admin.as_("requester"), admin)
    _register(found.one)
    found.limited = admin.as_("auditor", datasets=["clicks"])
    _first_half(found)
    _second_half(found)
    return found


def _register(one: Ledger) -> None:
    budget = {"epsilon": 3, "at_delta": 1e-5}
    certified = {**MNIST, "bound": "certified", "budget": budget, "privacy_unit": "user"}
    ads = {
        "title": "Ad events",
        "description": f"Clicked or not. {HOSTILE}",
        "ceiling": {"epsilon": 8, "at_delta": 1e-5},
    }
    ok(one.post("/v1/datasets", {**certified, **ads, "name": "ads"}))
    ok(one.post("/v1/datasets", {"name": "ads.eu", "derived_from": [{"name": "ads", "unit_preserving": True}]}))
    ok(one.post("/v1/datasets", {**certified, "name": "clicks", "partitions": ["2026-09", "2026-10"]}))
    ok(one.post("/v1/datasets", {**MNIST, "name": "papers", "title": "To reproduce a paper"}))
    share = {"budget": {"epsilon": 2, "at_delta": 1e-5}, "reason": "a team's share"}
    for name, project in (("ads", "ranking"), ("ads", "search"), ("clicks", "search")):
        ok(one.put(f"/v1/datasets/{name}/projects/{project}", share))
    fair = {"held": budget, "runs_per_hour": 1000, "reason": "one person at a time"}
    ok(one.put("/v1/datasets/clicks/fair-use", fair))


def _first_half(found: Told) -> None:
    about = {"project": "ranking", "code": CODE, "labels": {"team": "ranking", "note": HOSTILE}}
    found.ask("baseline", "ads", SGD, purpose="a baseline for the ranking model", **about)
    found.settle("baseline", steps=3515)
    found.ask("early", "ads", gaussian(20, 12), purpose=FORMULA, **about)
    found.settle("early", steps=5, restarts=[], models=MODELS)
    found.ask("derived", "ads.eu", gaussian(9), purpose="a histogram of the European part")
    found.settle("derived")
    found.ask("refused", "ads", gaussian(1.2), purpose="a count with too little noise", **about)
    found.ask("late", "ads", gaussian(30), valid_for="PT0.000001S", purpose="never started")
    found.ask("part", {"name": "clicks", "partitions": ["2026-10"]}, gaussian(8), project="search")
    found.settle("part")
    found.ask("estimate", "papers", {**SGD, "noise_multiplier": 2}, purpose="Table 3 of the paper")
    found.settle("estimate", steps=1000, stop="data_independent")
    found.middle = str(found.admin.get("/v1/datasets/papers/entries").json()["items"][-1]["entry"]["at"])


def _second_half(found: Told) -> None:
    admin, one, two = found.admin, found.one, found.two
    ok(admin.put("/v1/policy", {"second_steward": True, "reason": "agreed with the data protection officer"}))
    more = {"budget": {"epsilon": 4, "at_delta": 1e-5}, "reason": "the board agreed on 12 November"}
    proposed = ok(one.put("/v1/datasets/ads/budget", more))["proposal"]["id"]
    ok(two.post(f"/v1/proposals/{proposed}/approve"))
    most = {"budget": {"epsilon": 6, "at_delta": 1e-5}, "reason": "a little more still"}
    declined = ok(one.put("/v1/datasets/ads/budget", most))["proposal"]["id"]
    ok(two.post(f"/v1/proposals/{declined}/refuse", {"reason": "the board did not agree to that"}))
    added = ok(one.post("/v1/datasets/clicks/partitions", {"names": ["2026-11"], "disjoint": True}))["proposal"]["id"]
    ok(two.post(f"/v1/proposals/{added}/approve"))
    found.ask("held", "ads", gaussian(12), project="search", purpose="held and not started")
    found.ask("void", "ads", gaussian(11), project="search")
    ok(found.requester.post(f"/v1/runs/{found.runs['void']}/void", {"reason": "the job was cancelled"}))
    found.ask("void late", "ads", gaussian(10), project="ranking")
    started = found.start("void late")
    voiding = ok(one.post(f"/v1/runs/{started}/void", {"reason": "the node died before the first batch"}))
    ok(two.post(f"/v1/proposals/{voiding['proposal']['id']}/approve"))
    found.ask("over fits", "papers", gaussian(20, 3), purpose="one release too many")
    found.settle("over fits", steps=4)
    found.ask("over", "papers", gaussian(5, 3), purpose="went on and on")
    found.settle("over", steps=27)
    ok(one.patch("/v1/datasets/clicks", {"state": "frozen", "reason": "a look at the loader"}))
    ok(one.patch("/v1/datasets/clicks", {"state": "active", "reason": "looked at"}))
    found.ask("running", {"name": "clicks", "partitions": ["2026-09", "2026-11"]}, gaussian(7), project="search")
    found.start("running")
