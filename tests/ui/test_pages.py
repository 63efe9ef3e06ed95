"""What pages show, through the HTTP client: every page, hostile names, other tenants, roles, proposals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Context
from uuid import UUID

import pytest

from ledger.core import alerts
from ledger.core.amounts import microseconds
from ledger.core.datasets import Parent
from ledger.settings import Settings
from ledger.ui.routes import PAGES
from tests.kit.clocks import change_clock
from tests.kit.days import count_all
from tests.kit.driver import Ledger
from tests.kit.office import HOSTILE, Office, furnished
from tests.kit.pages import Visitor, words_of
from tests.kit.scene import another_tenant, ok

NOTHING = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def office(kept_database: Settings) -> Iterator[Office]:
    """A furnished tenant that the tests here read."""
    with Ledger.open(kept_database) as ledger:
        office = furnished(ledger)
        count_all(kept_database)
        yield office


@pytest.fixture
def visitor(office: Office) -> Visitor:
    """Its admin at the pages."""
    return Visitor.signed_in(office.admin)


def test_every_page_opens(office: Office, visitor: Visitor) -> None:
    """Goal: no page fails, whatever it has to show. Method: every page of a furnished tenant, and its headers."""
    for name, path in office.pages.items():
        answer = visitor.get(path)
        assert answer.status_code == (404 if name == "missing" else 200), (name, words_of(answer.text))
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'; style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in answer.text
        assert "<style" not in answer.text
        assert " onclick=" not in answer.text
        for header in set(answer.headers):
            assert len(answer.headers.get_list(header)) == 1, header


def test_every_route_is_opened_here(office: Office) -> None:
    """Goal: a new page is tested. Method: the GET routes that no page of the office is on."""
    opened = {
        route.path
        for route in PAGES
        for path in office.pages.values()
        if route.match(path.partition("?")[0]) is not None
    }
    assert {route.path for route in PAGES if route.method == "GET"} - opened == {
        "/ui/runs/{id}/receipt",
        "/ui/report/{form}",
    }


def test_names_by_users_are_text(office: Office, visitor: Visitor) -> None:
    """Goal: a name, purpose, label, description or reason is never markup. Method: the hostile one on each page that
    shows one; as it was written it is nowhere."""
    for name in ("dataset", "hostile", "budget"):
        page = visitor.page(office.pages[name])
        assert "<script>alert" not in page
        assert "onload=alert(1)'" not in page
        assert "&lt;script&gt;alert(&#34;x&#34;)" in page
        assert HOSTILE.replace(" ", "") in words_of(page).replace(" ", "")
        assert "49" not in page.partition("טקסט")[2][:60]


def test_the_overview_has_the_fullest_first(office: Office, visitor: Visitor) -> None:
    """Goal: what is nearly used up comes first, and what has no budget of its own last. Method: the order of links."""
    page = visitor.page("/ui").partition("fullest first")[2]
    names = ("patients", "regions", "empty", "patients.train")
    places = [page.index(f'href="/ui/datasets/{name}"') for name in names]
    shown = {name: ok(office.admin.get(f"/v1/datasets/{name}"))["percent"] for name in names}
    left = {name: percent["remaining"] for name, percent in shown.items() if percent}
    order = sorted(left, key=lambda name: left[name])
    assert [name for _, name in sorted(zip(places, names, strict=True))] == [*order, "patients.train"]
    said = words_of(page)
    assert "Refused lately" in said
    assert office.refused[:8] in said


def test_the_numbers_of_a_dataset_are_those_of_the_api(office: Office, visitor: Visitor) -> None:
    """Goal: pages and API say the same. Method: the percents of the balance, the head, and what people spent."""
    shown = ok(office.admin.get("/v1/datasets/patients"))
    page = words_of(visitor.page("/ui/datasets/patients"))
    assert f"Spent {shown['percent']['spent']:g} %" in page
    assert f"Held {shown['percent']['held']:g} %" in page
    assert ok(office.admin.get("/v1/datasets/patients/head"))["hash"] in page
    (project,) = [
        group
        for group in ok(office.admin.get("/v1/datasets/patients/spending", by="project"))["groups"]
        if group["name"]
    ]
    assert f"ranking 1 {Context(prec=4, rounding=ROUND_CEILING).create_decimal(project['percent'])} %" in page
    assert "ε 3 at δ 10⁻⁵" in page.replace("\N{NO-BREAK SPACE}", " ")


def test_a_refusal_is_explained(office: Office, visitor: Visitor) -> None:
    """Goal: a refused run's page states what it asks for, what is left, and what would fit, each a link to the planner.

    Method: the same numbers from the answer of the API to the same key and body.
    """
    page = visitor.page(office.pages["refused"])
    said = words_of(page)
    run = ok(office.admin.get(f"/v1/runs/{office.refused}"))
    by = run["refused_by"][0]
    assert "the run asks for" in said
    assert f"{by['percent_remaining']:g} % is left" in said
    again = office.admin.post("/v1/runs", run["request"], Idempotency_Key=run["idempotency_key"]).json()
    for name, value in again["fits"].items():
        assert f"/ui/planner?dataset=patients&amp;run={office.refused}&amp;" in page
        assert f"{name}={value}" in page


def test_a_receipt_is_a_file(office: Office, visitor: Visitor) -> None:
    """Goal: the receipt of a held run can be kept, and one that has ended has none. Method: download each."""
    answer = visitor.get(f"/ui/runs/{office.held}/receipt")
    assert answer.headers["content-disposition"] == f'attachment; filename="receipt-{office.held}.json"'
    assert answer.json()["run"] == office.held
    assert answer.json()["receipt"].count(".") == 2
    assert visitor.get(f"/ui/runs/{office.refused}/receipt").status_code == 409


def test_the_beginning_of_an_id_is_enough(office: Office, visitor: Visitor) -> None:
    """Goal: a short id leads to its object. Method: eight characters of a run's and a proposal's."""
    assert visitor.get(f"/ui/runs/{office.held[:8]}").headers["location"] == f"/ui/runs/{office.held}"
    budget = office.proposals["budget"]
    assert visitor.get(f"/ui/approvals/{budget[:8]}").headers["location"] == f"/ui/approvals/{budget}"


def test_pages_go_on(office: Office, visitor: Visitor) -> None:
    """Goal: lists are pages, each begun where the one before ended. Method: follow the next page; a broken cursor."""
    page = visitor.page("/ui/datasets/patients")
    assert "Earlier changes" not in page
    assert visitor.get("/ui/datasets?cursor=x").status_code == 422
    assert visitor.get("/ui/datasets/patients?runs=x").status_code == 422
    assert visitor.get("/ui/approvals?state=odd").status_code == 422


def test_another_tenants_pages_are_not_found(office: Office) -> None:
    """Goal: nothing of a tenant is visible to another, not even that it is there. Method: every page of the office as
    another tenant's admin, compared with an object that does not exist."""
    other = Visitor.signed_in(another_tenant(office.admin, name="elsewhere"))
    same = {
        "overview",
        "datasets",
        "register",
        "approvals",
        "expired",
        "planner",
        "search",
        "report",
        "alerts",
        "keys",
        "policy",
    }
    nothing = words_of(other.get(f"/ui/runs/{NOTHING}").text)
    for name, path in office.pages.items():
        answer = other.get(path)
        assert answer.status_code == (200 if name in same else 404), name
        assert not {"Hospital", "ranking", office.held[:8]} & set(words_of(answer.text).split())
        if name in ("refused", "held"):
            assert words_of(answer.text) == nothing
    assert other.get(f"/ui/runs/{office.held}/receipt").status_code == 404
    token = other.token()
    for verb in ("approve", "refuse"):
        path = f"/ui/approvals/{office.proposals['budget']}/{verb}"
        assert other.send(path, csrf=token, reason="no").status_code == 404
    assert ok(office.admin.get(f"/v1/proposals/{office.proposals['budget']}"))["state"] == "open"


def test_a_limited_key_sees_its_datasets_alone(office: Office) -> None:
    """Goal: the limits of a key hold on pages. Method: a key for one dataset, on every page."""
    visitor = Visitor.signed_in(office.admin.as_("steward", datasets=["regions"]))
    assert "patients" not in visitor.page("/ui")
    assert "patients" not in visitor.page("/ui/datasets")
    visitor.page("/ui/datasets/regions")
    assert visitor.get("/ui/datasets/patients").status_code == 404
    assert visitor.get(f"/ui/runs/{office.held}").status_code == 404
    assert visitor.get("/ui/approvals").status_code == 403


def test_roles_hold_on_pages(office: Office) -> None:
    """Goal: who may not answer proposals or read journals cannot on pages either. Method: a requester."""
    requester = Visitor.signed_in(office.admin.as_("requester"))
    page = words_of(requester.page("/ui/datasets/patients"))
    assert "Your role does not read journals" in page
    assert "By person" not in page
    path = f"/ui/approvals/{office.proposals['budget']}"
    assert "A steward or an admin must answer it" in words_of(requester.page(path))
    assert "Your answer" not in requester.page(path)
    assert requester.send(f"{path}/approve", csrf=requester.token()).status_code == 403
    assert ok(office.admin.get(f"/v1/proposals/{office.proposals['budget']}"))["state"] == "open"


def test_the_proposer_cannot_approve(office: Office, visitor: Visitor) -> None:
    """Goal: it takes two people. Method: the page of one's own proposal, and its form all the same."""
    path = f"/ui/approvals/{office.proposals['budget']}"
    assert "somebody else must approve it" in words_of(visitor.page(path))
    assert visitor.send(f"{path}/approve", csrf=visitor.token()).status_code == 403


def test_a_diff_has_what_changes(office: Office) -> None:
    """Goal: a steward sees now and then, side by side. Method: the rows of each kind of proposal."""
    steward = Visitor.signed_in(office.steward)
    rows = {
        "budget": "epsilon 3 4",
        "partition": "partitions 40 41",
        "share": "epsilon 1.5 2",
        "fair use": "held at once: mu 0.7 0.9",
        "void": "state of the run started voided",
    }
    for kind, row in rows.items():
        assert row in words_of(steward.page(office.pages[kind])), kind


def test_a_method_that_a_page_does_not_take(office: Office, visitor: Visitor) -> None:
    """Goal: other methods are answered with a page. Method: each on a page, and on an unknown one."""
    for method in ("PUT", "DELETE", "POST", "BREW"):
        assert visitor.get("/ui", method=method).status_code == 405
    assert visitor.get("/ui/nothing/here").status_code == 404
    assert visitor.get("/ui", method="HEAD").status_code == 200


# --- what changes something: a ledger for each test -------------------------------------------------------------------


def test_approving_and_refusing(ledger: Ledger) -> None:
    """Goal: a second steward approves or refuses with a reason, once. Method: both, then again; a refusal without a
    reason; a form without its token."""
    office = furnished(ledger)
    steward = Visitor.signed_in(office.steward)
    token = steward.token()
    budget, share = (f"/ui/approvals/{office.proposals[kind]}" for kind in ("budget", "share"))
    assert steward.send(f"{budget}/approve", reason="Agreed.").status_code == 403
    done = steward.send(f"{budget}/approve", csrf=token, reason="Agreed.")
    assert done.headers["location"] == f"{budget}?done=approved"
    page = words_of(steward.page(f"{budget}?done=approved"))
    assert "Approved. The change is made." in page
    assert "Agreed." in page
    assert ok(ledger.get("/v1/datasets/patients"))["budget"]["epsilon"] == 4
    assert steward.send(f"{budget}/approve", csrf=token).status_code == 409
    empty = steward.send(f"{share}/refuse", csrf=token, reason="  ")
    assert empty.status_code == 422
    assert "Write why you refuse it" in words_of(empty.text)
    assert steward.send(f"{share}/refuse", csrf=token, reason="Too early.").status_code == 303
    assert ok(ledger.get(f"/v1/proposals/{office.proposals['share']}"))["answered_reason"] == "Too early."
    assert steward.send(f"{share}/refuse", csrf=token, reason="x" * 20_000).status_code in (409, 422)


def test_a_new_tenant_reads_what_to_do_first(ledger: Ledger) -> None:
    """Goal: empty pages say what to do, to those who may. Method: the overview, the datasets and the approvals of a new
    tenant, as an admin and as a requester."""
    visitor = Visitor.signed_in(ledger)
    for path in ("/ui", "/ui/datasets"):
        assert 'href="/ui/register"' in visitor.page(path)
        requester = Visitor.signed_in(ledger.as_("requester"))
        assert 'href="/ui/register"' not in requester.page(path)
        assert "An admin or a steward registers datasets." in words_of(requester.page(path))
    assert "privacy-ledger policy set" in visitor.page("/ui/approvals")


def test_a_journal_that_did_not_verify_is_named(ledger: Ledger) -> None:
    """Goal: a dataset's page states what the server found wrong with its journal, and nothing about another's. Method:
    the alert that the comparison raises, told to the ledger; the pages of two datasets."""
    for name in ("one", "two"):
        ledger.register(name=name)
    services, tenant = ledger.client.app.state.services, UUID(ok(ledger.get("/v1/me"))["tenant"]["id"])
    with services.store.reading(tenant) as reading:
        (dataset,) = reading.datasets.by_names(["one"])
    found = alerts.mismatch(Parent(dataset.id, "one"), seq=1, reason="its bytes do not have its hash")
    assert services.writer.tell(tenant, [found]).result(60) == 1
    visitor = Visitor.signed_in(ledger)
    assert "entry 1: its bytes do not have its hash" in words_of(visitor.page("/ui/datasets/one"))
    assert "The server raised no alert about this journal" in words_of(visitor.page("/ui/datasets/two"))


def test_epsilon_over_time_is_what_the_api_states(
    ledger: Ledger, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the figure and its table have the stored epsilon of each day, and none before two days are known. Method: a
    run on each of three days; the table against the burn-down of the API."""
    at = [datetime(2026, 10, 1, 12, tzinfo=UTC)]
    change_clock(monkeypatch, lambda _now: microseconds(at[0]))
    ledger.register(budget={"mu": 1, "delta": 1e-6}, bound="certified", costing="standalone")
    assert "Epsilon over time" not in Visitor.signed_in(ledger).page("/ui/datasets/mnist")
    for _ in range(3):
        ok(ledger.ask({"type": "gaussian", "noise_multiplier": 5}))
        at[0] += timedelta(days=1)
    count_all(database)
    points = ok(ledger.get("/v1/datasets/mnist/burndown"))["points"]
    page = Visitor.signed_in(ledger).page("/ui/datasets/mnist")
    table = page.partition('aria-label="Epsilon over time"')[2].partition("</table>")[0]
    shown = [float(words_of(cell)) for cell in re.findall(r'<td class="count">(.*?)</td>', table)]
    stated = [value for point in points for value in (point["epsilon"][0]["taken"], point["epsilon"][0]["limit"])]
    assert len(points) >= 3
    assert shown == [pytest.approx(value, rel=1e-3) for value in stated]
    assert all(now >= value for now, value in zip(shown, stated, strict=True))
