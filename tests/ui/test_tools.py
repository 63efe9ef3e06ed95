"""The planner, search, reports, keys, the policy and alerts, through the HTTP client."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from html import unescape

import pytest

from ledger.settings import Settings
from tests.kit.driver import Ledger
from tests.kit.office import HOSTILE, Office, furnished
from tests.kit.pages import Visitor, words_of
from tests.kit.scene import another_tenant, ok

FORMS = {"html": "text/html", "pdf": "application/pdf", "csv": "text/csv", "json": "application/json"}


@pytest.fixture(scope="module")
def office(kept_database: Settings) -> Iterator[Office]:
    """A furnished tenant that the tests here read."""
    with Ledger.open(kept_database) as ledger:
        yield furnished(ledger)


@pytest.fixture
def visitor(office: Office) -> Visitor:
    """Its admin at the pages."""
    return Visitor.signed_in(office.admin)


def row_of(page: str, title: str) -> list[str]:
    """The cells of the row with this heading."""
    found = re.search(rf'<th scope="row">{title}</th>(.*?)</tr>', page, re.DOTALL)
    assert found is not None, title
    return [words_of(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[1], re.DOTALL)]


# --- the planner -----------------------------------------------------------------------------------------------------


def test_the_planner_shows_what_the_api_answers(office: Office, visitor: Visitor) -> None:
    """Goal: each variant has the verdict, cost, what is left and how many more of the plan. Method: three variants,
    each against POST /v1/plan."""
    page = visitor.page(office.pages["planner"])
    plans = []
    for noise in (0.5, 2, 5):
        mechanism = {"type": "gaussian", "noise_multiplier": noise, "count": 1}
        plans.append(ok(office.admin.post("/v1/plan", {"datasets": ["patients"], "mechanism": mechanism})))
    assert row_of(page, "Verdict") == ["refused does not fit", "approved fits", "approved fits"]
    for title, member in (("Cost", "percent"), ("More such runs", "runs_left")):
        shown = [float(cell.split()[0].replace("\N{NARROW NO-BREAK SPACE}%", "")) for cell in row_of(page, title)]
        assert shown == [pytest.approx(plan[member], rel=1e-3) for plan in plans]
    after = row_of(page, "Left after it")
    assert after[0] == "–"
    assert [float(cell.split()[0].rstrip("%")) for cell in after[1:]] == [
        pytest.approx(plan["datasets"][0]["percent_after"], rel=1e-3) for plan in plans[1:]
    ]
    rates = [float(cell.split()[0].rstrip("%")) for cell in row_of(page, "An attacker finds")]
    assert rates == [pytest.approx(plan["attack"]["found_percent"], rel=1e-3) for plan in plans]
    assert all(rate >= plan["attack"]["found_percent"] for rate, plan in zip(rates, plans, strict=True))


def test_a_refusal_opens_in_the_planner(office: Office, visitor: Visitor) -> None:
    """Goal: the alternatives of a refused run fit once they are clicked, on its page and in the planner. Method: follow
    the links of both."""
    refused = visitor.page(office.pages["refused"])
    links = [unescape(link) for link in re.findall(r'href="(/ui/planner\?[^"]+)"', refused)]
    changed = [link for link in links if "noise_multiplier=0.5&" not in f"{link}&"]
    assert changed
    for link in changed:
        assert row_of(visitor.page(link), "Verdict") == ["approved fits"]
    same = visitor.page(f"/ui/planner?run={office.refused}")
    assert row_of(same, "Verdict") == ["refused does not fit"]
    (fit,) = re.findall(r'href="([^"]+)">noise_multiplier', same)
    assert row_of(visitor.page(unescape(fit)), "Verdict") == ["approved fits"]


def test_snippets_ask_for_the_planned_run(office: Office, visitor: Visitor) -> None:
    """Goal: what is copied asks for exactly the planned run. Method: the JSON of curl through the API; Python's syntax;
    the words of the command line, with a name that a shell would take apart."""
    page = visitor.page("/ui/planner?dataset=patients&type=gaussian&noise_multiplier=7&count=2")
    texts = [unescape(text) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]
    python, shell, curl = texts
    call = next(node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call) and node.keywords)
    assert {word.arg for word in call.keywords} >= {"datasets", "mechanism", "purpose"}
    words = shlex.split(shell)
    assert words[:3] == ["privacy-ledger", "request", "patients"]
    assert words[words.index("--noise-multiplier") + 1] == "7"
    body = json.loads(shlex.split(curl.replace("\\\n", " "))[-1])
    assert body["mechanism"] == {"type": "gaussian", "noise_multiplier": 7, "count": 2}
    assert ok(office.admin.post("/v1/plan", {name: body[name] for name in ("datasets", "mechanism")}))["fits"]
    odd = visitor.page("/ui/planner?dataset=$(touch+x)%27&type=gaussian&noise_multiplier=7")
    assert "is no name" in words_of(odd)
    assert "<pre" not in odd


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("dataset=patients&noise_multiplier=x", "noise_multiplier"),
        ("dataset=patients&noise_multiplier=-1", "noise_multiplier"),
        ("dataset=patients&vary=noise_multiplier&values=1,2,3,4,5,6,7", "at most 6"),
        ("dataset=patients&type=magic", "magic"),
        ("dataset=patients&noise_multiplier=3&nonsense=3", "nonsense"),
        ("dataset=patients&project=nobody", "nobody"),
        ("dataset=nothing", "No dataset is named"),
    ],
)
def test_what_cannot_be_planned_is_explained(visitor: Visitor, query: str, words: str) -> None:
    """Goal: a wrong field is an error in the page, beside the form that has what was written. Method: one of each."""
    page = visitor.page(f"/ui/planner?{query}")
    alert = re.search(r'role="alert">(.*?)</p>', page, re.DOTALL)
    assert alert is not None
    assert words in words_of(alert[1])
    assert "<form" in page


def test_dpsgd_has_its_own_fields(visitor: Visitor) -> None:
    """Goal: another mechanism has its own form, and no field of the one before. Method: as the form sends it."""
    page = visitor.page("/ui/planner?dataset=empty&type=dpsgd&noise_multiplier=8&count=1&batch_size=64&epochs=1")
    assert 'name="epochs"' in page
    assert 'name="count"' not in page
    assert row_of(page, "Verdict")[0] in ("approved fits", "refused does not fit")


# --- search ----------------------------------------------------------------------------------------------------------


def test_runs_are_found_by_every_filter(office: Office, visitor: Visitor) -> None:
    """Goal: each filter finds what the API finds with it, and an id leads to its run. Method: one search of each."""
    for query in (
        {"dataset": "regions"},
        {"state": "refused"},
        {"project": "ranking"},
        {"label": "trial=2"},
        {"mechanism": "gaussian"},
        {"person": "admin", "since": "2020-01-01", "until": "2100-01-01"},
        {"person": "nobody"},
        {"until": "2020-01-01"},
    ):
        text = "&".join(f"{name}={value}" for name, value in query.items())
        found = set(re.findall(r'href="/ui/runs/([0-9a-f-]{36})"', visitor.page(f"/ui/search?{text}")))
        assert found == {one["id"] for one in ok(office.admin.get("/v1/runs", **query))["items"]}, query
    found = set(re.findall(r'href="/ui/runs/([0-9a-f-]{36})"', visitor.page("/ui/search?q=BASELINE")))
    assert found == {one["id"] for one in ok(office.admin.get("/v1/runs", purpose="baseline"))["items"]}
    assert visitor.get(f"/ui/search?q={office.held[:9]}").headers["location"] == f"/ui/runs/{office.held}"
    assert "No run is like this" in words_of(visitor.page("/ui/search?q=00000000"))
    for wrong, words in (("state=odd", "odd"), ("since=x", "no date"), ("label=%3Dx", "label"), ("dataset=no", "no")):
        assert words in words_of(visitor.page(f"/ui/search?{wrong}")), wrong
    page = visitor.page("/ui/search")
    assert "<script>alert" not in page
    assert HOSTILE.replace(" ", "") in words_of(page).replace(" ", "")


# --- reports ---------------------------------------------------------------------------------------------------------


def test_a_report_of_a_period(office: Office, visitor: Visitor) -> None:
    """Goal: a period is summed up as the API has it, and the whole report is a file in each form, the same bytes' kind
    as the API's. Method: a dataset with its numbers; every form; a period that ends before it begins."""
    page = visitor.page(office.pages["report"])
    points = ok(office.admin.get("/v1/datasets/patients/burndown"))["points"]
    said = words_of(page)
    assert f"Approved {sum(point['approvals'] for point in points)} " in said
    assert f"Refused {sum(point['refusals'] for point in points)} " in said
    for form, kind in FORMS.items():
        link = f"/ui/report/{form}?dataset=patients&amp;from=2025-01-01"
        assert link in page
        answer = visitor.get(unescape(link))
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-store"
    report = visitor.get("/ui/report/json?dataset=patients").json()
    assert report["runs"] == office.admin.get("/v1/datasets/patients/report").json()["runs"]
    assert visitor.get("/ui/report/odd").status_code == 422
    assert "ends before it begins" in words_of(
        visitor.page("/ui/report?dataset=patients&from=2026-02-01&to=2026-01-01")
    )
    assert "did not exist" in words_of(visitor.page("/ui/report?dataset=patients&to=2020-01-01"))
    requester = Visitor.signed_in(office.admin.as_("requester"))
    assert "/ui/report/pdf" not in requester.page("/ui/report?dataset=patients")
    assert requester.get("/ui/report/json?dataset=patients").status_code == 403


# --- keys and the policy ---------------------------------------------------------------------------------------------


def test_keys_are_made_rotated_and_revoked(office: Office) -> None:
    """Goal: a key is shown once and works within its limits; its successor and its end work too; no address has a
    secret. Method: make, rotate and revoke in a tenant of its own, and use each key."""
    admin = another_tenant(office.admin, name="keys")
    admin.register(name="only")
    visitor = Visitor.signed_in(admin)
    token = visitor.token("/ui/keys")
    made = visitor.send(
        "/ui/keys", csrf=token, name=HOSTILE, role="requester", datasets="only", expires_at="2100-01-01"
    )
    assert made.status_code == 200, made.text
    assert "<script>alert" not in made.text
    (secret,) = re.findall(r"<code[^>]*>(pbl_[^<]+)</code>", made.text)
    me = ok(admin.with_key(secret).get("/v1/me"))
    assert (me["role"], me["datasets"]) == ("requester", ["only"])
    listed = visitor.page("/ui/keys")
    assert secret not in listed
    assert "&lt;script&gt;" in listed
    ((key_id, ends),) = [
        (one["id"], one["expires_at"]) for one in ok(admin.get("/v1/keys"))["items"] if one["name"] == HOSTILE
    ]
    assert ends.startswith("2100-01-01T00:00:00")
    rotated = visitor.send(f"/ui/keys/{key_id}/rotate", csrf=token, overlap="PT0S")
    (successor,) = re.findall(r"<code[^>]*>(pbl_[^<]+)</code>", rotated.text)
    (before,) = [one for one in ok(admin.get("/v1/keys"))["items"] if one["id"] == key_id]
    assert before["expires_at"] < "2100"
    assert admin.with_key(successor).get("/v1/me").status_code == 200
    ids = [one["id"] for one in ok(admin.get("/v1/keys"))["items"] if one["name"] == HOSTILE and not one["revoked_at"]]
    ended = [visitor.send(f"/ui/keys/{one}/revoke", csrf=token) for one in ids]
    assert {answer.headers["location"] for answer in ended} == {"/ui/keys?done=revoked"}
    assert admin.with_key(successor).get("/v1/me").status_code == 401
    for fields in ({"name": "", "role": "steward"}, {"name": "x", "role": "root"}, {"name": "x", "expires_at": "soon"}):
        refused = visitor.send("/ui/keys", headers={}, **{"csrf": token, "role": "auditor", **fields})
        assert refused.status_code == 422, fields
    assert visitor.send("/ui/keys", csrf="x", name="x", role="admin").status_code == 403
    steward = Visitor.signed_in(admin.as_("steward"))
    assert steward.get("/ui/keys").status_code == 403
    assert "/ui/keys" not in steward.page("/ui")
    assert steward.send("/ui/keys", csrf=steward.token(), name="x", role="admin").status_code == 403


def test_the_policy_is_set_with_a_reason(office: Office) -> None:
    """Goal: an admin sets the policy, and the journal has the reason; others read it. Method: set, read, and try."""
    admin = another_tenant(office.admin, name="policy")
    visitor = Visitor.signed_in(admin)
    token = visitor.token("/ui/policy")
    assert "One steward is enough" in words_of(visitor.page("/ui/policy"))
    assert visitor.send("/ui/policy", csrf=token, second_steward="yes", reason="").status_code == 422
    done = visitor.send("/ui/policy", csrf=token, second_steward="yes", reason="Agreed.")
    assert done.headers["location"] == "/ui/policy?done=set"
    assert "A second steward must approve" in words_of(visitor.page("/ui/policy?done=set"))
    assert ok(admin.get("/v1/policy"))["second_steward"] is True
    assert '"reason":"Agreed."' in admin.get("/v1/export").text
    auditor = Visitor.signed_in(admin.as_("auditor"))
    assert 'action="/ui/policy"' not in auditor.page("/ui/policy")
    assert auditor.send("/ui/policy", csrf=auditor.token(), second_steward="no", reason="x").status_code == 403


# --- alerts ----------------------------------------------------------------------------------------------------------


def test_alerts_are_set_and_tested(office: Office) -> None:
    """Goal: which alerts are raised is set with a reason, what is not valid changes nothing, and a test alert is
    listed. Method: change, spoil and test, against the API."""
    admin = another_tenant(office.admin, name="alerts")
    visitor = Visitor.signed_in(admin)
    token = visitor.token("/ui/alerts")
    fields = {"thresholds": "60, 90", "refusals_in_a_row": "", "forecast_days": "45", "heads": "no", "reason": "less"}
    done = visitor.send("/ui/alerts", headers={}, csrf=token, **fields)
    assert done.headers["location"] == "/ui/alerts?done=set", words_of(done.text)
    set_now = ok(admin.get("/v1/alerting"))
    assert (set_now["thresholds"], set_now["refusals_in_a_row"], set_now["forecast_days"]) == ([60, 90], None, 45)
    for spoilt in (
        {"thresholds": "90, 60"},
        {"thresholds": "many"},
        {"forecast_days": "0.5"},
        {"reason": ""},
        {"webhook": "https://not-allowed.example/x"},
    ):
        assert visitor.send("/ui/alerts", headers={}, **{"csrf": token, **fields, **spoilt}).status_code == 422, spoilt
    assert ok(admin.get("/v1/alerting")) == set_now
    assert visitor.send("/ui/alerts/test", csrf=token).headers["location"] == "/ui/alerts?done=tested"
    page = visitor.page("/ui/alerts?kind=test")
    assert "test" in row_texts(page)
    assert visitor.get("/ui/alerts?kind=odd").status_code == 422
    requester = Visitor.signed_in(admin.as_("requester"))
    assert 'action="/ui/alerts/test"' not in requester.page("/ui/alerts")
    assert requester.send("/ui/alerts/test", csrf=requester.token()).status_code == 403


def row_texts(page: str) -> str:
    """The body of the first table."""
    return words_of(page.partition("<tbody>")[2].partition("</tbody>")[0])
