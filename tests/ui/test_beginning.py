"""Registering a dataset and asking for a run in the pages, through the HTTP client: what a newcomer does first."""

from __future__ import annotations

import re
from html import unescape

import pytest

from tests.kit.driver import Ledger
from tests.kit.pages import Visitor, words_of
from tests.kit.scene import another_tenant, ok

DATASET = {
    "name": "survey",
    "epsilon": "2.5",
    "at_delta": "1e-6",
    "size": "5000",
    "privacy_unit": "person",
    "adjacency": "replace_one",
}
PLAN = "/ui/planner?dataset=mnist&type=gaussian&noise_multiplier="


def sent_by(page: str) -> dict[str, str]:
    """The hidden fields of the form that asks for a run."""
    form = page.partition('action="/ui/runs"')[2].partition("</form>")[0]
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)}


def test_a_dataset_is_registered(ledger: Ledger) -> None:
    """Goal: the form registers exactly what it has. Method: every field, against what the API then shows."""
    visitor = Visitor.signed_in(ledger)
    fields = {**DATASET, "title": "A survey", "partitions": "north, south"}
    done = visitor.send("/ui/register", headers={}, csrf=visitor.token("/ui/register"), **fields)
    assert done.headers["location"] == "/ui/datasets/survey?done=registered", words_of(done.text)
    shown = ok(ledger.get("/v1/datasets/survey"))
    assert (shown["budget"], shown["size"]) == ({"epsilon": 2.5, "at_delta": 1e-6}, 5000)
    assert (shown["privacy_unit"], shown["adjacency"], shown["bound"]) == ("person", "replace_one", "certified")
    assert [one["name"] for one in shown["partitions"]] == ["north", "south"]
    assert shown["title"] == "A survey"
    assert "Registered. Its journal has begun." in words_of(visitor.page(done.headers["location"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "No Name"}, "is no name"),
        ({"name": "mnist"}, "name is already in use"),
        ({"epsilon": "much"}, "epsilon"),
        ({"epsilon": ""}, "epsilon"),
        ({"at_delta": "2"}, "at_delta"),
        ({"size": "few"}, "size"),
        ({"adjacency": "none"}, "adjacency"),
        ({"epsilon": "30"}, "20"),
        ({"partitions": "a, a"}, "twice"),
    ],
    ids=str,
)
def test_what_cannot_be_registered_is_explained(ledger: Ledger, changes: dict[str, str], words: str) -> None:
    """Goal: a mistake is named above the form, which keeps what was written. Method: one of each."""
    ledger.register()
    visitor = Visitor.signed_in(ledger)
    answer = visitor.send(
        "/ui/register", headers={}, csrf=visitor.token("/ui/register"), **{**DATASET, "title": "My survey", **changes}
    )
    assert answer.status_code == 422
    alert = re.search(r'role="alert"[^>]*>(.*?)</p>', answer.text, re.DOTALL)
    assert alert is not None
    assert words in words_of(alert[1])
    assert 'value="My survey"' in answer.text
    assert ledger.get("/v1/datasets/survey").status_code == 404


def test_weak_protection_is_accepted_by_a_box(ledger: Ledger) -> None:
    """Goal: a budget above epsilon 20 needs a statement. Method: with the box."""
    visitor = Visitor.signed_in(ledger)
    fields = {**DATASET, "epsilon": "30", "accepts_weak_protection": "yes"}
    assert visitor.send("/ui/register", headers={}, csrf=visitor.token("/ui/register"), **fields).status_code == 303
    assert ok(ledger.get("/v1/datasets/survey"))["budget"]["epsilon"] == 30


def test_a_planned_run_is_asked_for_once(ledger: Ledger) -> None:
    """Goal: the button asks for exactly the planned run, and a form that is sent twice asks once. Method: send it
    twice; compare with the plan and the journal."""
    ledger.register()
    visitor = Visitor.signed_in(ledger)
    fields = sent_by(visitor.page(f"{PLAN}5"))
    planned = ok(
        ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}})
    )
    done = [visitor.send("/ui/runs", headers={}, **fields, purpose="a count").headers["location"] for _ in range(2)]
    assert done[0] == done[1]
    (run,) = ok(ledger.get("/v1/runs"))["items"]
    assert done[0] == f"/ui/runs/{run['id']}?done=asked"
    assert (run["request"]["purpose"], run["decision"], run["cost"]) == ("a count", "approved", planned["cost"])
    page = words_of(visitor.page(done[0]))
    assert "Asked. The journal has the decision." in page
    assert "Download the receipt" in page


def test_a_refused_run_says_what_would_fit(ledger: Ledger) -> None:
    """Goal: asking for what does not fit leads to why, and to what fits, which the same button then asks for. Method:
    follow the links."""
    ledger.register(budget={"epsilon": 1, "at_delta": 1e-5})
    visitor = Visitor.signed_in(ledger)
    planner = visitor.page(f"{PLAN}0.5")
    assert "It would be refused." in words_of(planner)
    refused = visitor.page(visitor.send("/ui/runs", headers={}, **sent_by(planner)).headers["location"])
    assert "Why it was refused" in words_of(refused)
    links = [unescape(link) for link in re.findall(r'class="button main" href="([^"]+)"', refused)]
    fitting = visitor.page(links[0])
    visitor.send("/ui/runs", headers={}, **sent_by(fitting))
    decisions = sorted(run["decision"] for run in ok(ledger.get("/v1/runs"))["items"])
    assert decisions == ["approved", "refused"]


def test_who_may_not_ask_or_register_cannot(ledger: Ledger) -> None:
    """Goal: roles, limits of keys, CSRF tokens and tenants hold for both forms. Method: each; nothing is recorded."""
    ledger.register()
    ledger.register(name="other")
    admin = Visitor.signed_in(ledger)
    fields = sent_by(admin.page(f"{PLAN}5"))
    for role in ("steward", "auditor"):
        visitor = Visitor.signed_in(ledger.as_(role))
        assert "/ui/runs" not in visitor.page(f"{PLAN}5").replace("/ui/runs/", "")
        assert visitor.send("/ui/runs", headers={}, **{**fields, "csrf": visitor.token()}).status_code == 403
    requester = Visitor.signed_in(ledger.as_("requester"))
    assert requester.send("/ui/register", headers={}, csrf=requester.token(), **DATASET).status_code == 403
    assert requester.get("/ui/register").status_code == 403
    limited = Visitor.signed_in(ledger.as_("requester", datasets=["other"]))
    assert limited.send("/ui/runs", headers={}, **{**fields, "csrf": limited.token()}).status_code == 404
    other = Visitor.signed_in(another_tenant(ledger, name="other"))
    assert other.send("/ui/runs", headers={}, **{**fields, "csrf": other.token()}).status_code == 404
    assert admin.send("/ui/runs", headers={}, **{**fields, "csrf": "x"}).status_code == 403
    assert admin.send("/ui/register", headers={}, csrf="x", **DATASET).status_code == 403
    assert ok(ledger.get("/v1/runs"))["items"] == []
    assert ledger.get("/v1/datasets/survey").status_code == 404


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"request": "{"}, 400),
        ({"request": ""}, 400),
        ({"request": "[]"}, 422),
        ({"request": '{"datasets": ["mnist"], "datasets": ["mnist"]}'}, 400),
        ({"request": '{"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": NaN}}'}, 422),
        ({"request": '{"datasets": ["mnist"]}'}, 422),
        ({"key": ""}, 400),
        ({"key": "a b"}, 400),
        ({"purpose": "x" * 5000}, 422),
    ],
    ids=str,
)
def test_a_form_that_was_changed_asks_for_nothing(ledger: Ledger, changes: dict[str, str], status: int) -> None:
    """Goal: what the form has is read by the API's rules. Method: bodies and keys that a page never has."""
    ledger.register()
    visitor = Visitor.signed_in(ledger)
    answer = visitor.send("/ui/runs", headers={}, **{**sent_by(visitor.page(f"{PLAN}5")), **changes})
    assert answer.status_code == status, words_of(answer.text)
    assert ok(ledger.get("/v1/runs"))["items"] == []
