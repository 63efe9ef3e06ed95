"""The first page of a report in plain words, who made it and when, and how long the report is."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mpmath
import pypdf
import pytest

from ledger.accounting import disclosure
from ledger.core.amounts import Amount
from ledger.report import document, pdf, view
from ledger.report.document import Report
from ledger.report.sections.plain import plain
from ledger.report.source import Question
from tests.bench.report_journal import TENANT, Journal
from tests.conftest import Templates
from tests.kit.driver import MNIST, Ledger
from tests.kit.scene import ok

RUNS, PAGES_MAX = 200, 20
DIGITS = 50
GAUSSIAN = {"type": "gaussian", "noise_multiplier": 20, "count": 3}
BUDGET = {"epsilon": 3, "at_delta": 1e-5}
STATED = {"made_on": "2026-10-01", "contact": "Dr. Ada <ada@example.org>, room 7"}


@pytest.fixture(scope="module")
def ledger(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A tenant on SQLite: a report is made of the journal, which is the same on both databases."""
    with (
        templates.clone("sqlite", tmp_path_factory.mktemp("first_page")) as settings,
        Ledger.open(settings) as opened,
    ):
        yield opened


def dataset(ledger: Ledger, name: str, **more: Any) -> None:
    """Register a dataset, and settle one run on it."""
    ok(ledger.post("/v1/datasets", {**MNIST, "budget": BUDGET, "privacy_unit": "user", **more, "name": name}))
    settle(ledger, name, steps=3)


def settle(ledger: Ledger, name: str, *, steps: int) -> None:
    """Settle one more run on a dataset for so many releases; three are approved."""
    run = ok(ledger.ask(GAUSSIAN, datasets=[name]))["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    answer = ledger.post(f"/v1/runs/{run}/settle", {"steps": steps})
    assert answer.status_code in (200, 409), answer.text


def first_page(ledger: Ledger, name: str) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The four answers about a dataset, and the JSON that they are made of."""
    found = ok(ledger.get(f"/v1/datasets/{name}/report"))
    page = plain(view.view_of(iter(found.items())))
    return {title: [line.text for line in cell] for title, cell in page.rows}, found


# --- the four answers ------------------------------------------------------------------------------------------------


def test_a_plain_dataset(ledger: Ledger) -> None:
    """Goal: the page answers what was promised, whether it was kept, what is learnt, and that nothing else happened."""
    dataset(ledger, "plain", bound="certified", costing="standalone")
    said, found = first_page(ledger, "plain")
    assert list(said) == ["What was promised", "Was it kept", "What can an attacker learn", "What you must know"]
    assert said["What was promised"][1].startswith("plain: at most epsilon 3 at delta 1e-5 for each user (")
    assert said["Was it kept"] == [found["verdict"]["sentence"]]
    learnt = " ".join(said["What can an attacker learn"])
    assert "from all that is spent and held (in brackets: if the whole budget is used)" in learnt
    assert learnt.count("A property of a user") == len(disclosure.BASE_RATES)
    attack = found["datasets"][0]["attack"]
    assert 0 < attack["committed"]["advantage"] < attack["limit"]["advantage"]
    told = re.search(r"at most ([0-9.]+) % \(([0-9.]+) %\), the membership advantage", learnt)
    assert told is not None
    for shown, exact in zip(told.groups(), (attack["committed"], attack["limit"]), strict=True):
        assert 0 <= float(shown) - exact["advantage"] * 100 < 0.1 * exact["advantage"] * 100
    assert said["What you must know"] == ["Nothing happened that changes what was promised."]


def test_residual_costs_have_the_limit_alone(ledger: Ledger) -> None:
    """Goal: what is spent is not said to bound what was released, if costs are counted beside what is left."""
    dataset(ledger, "residual", bound="certified", costing="residual")
    said, found = first_page(ledger, "residual")
    assert found["datasets"][0]["costing"] == "residual"
    learnt = said["What can an attacker learn"]
    assert learnt[0] == "On residual, whatever is done with the whole budget:"
    assert not any(re.search(r"% \([0-9]", line) for line in learnt)


def test_what_went_wrong_is_known(ledger: Ledger) -> None:
    """Goal: an overrun, an estimate and a raised budget are each on the first page."""
    dataset(ledger, "over", bound="clt", budget={"mu": 1})
    settle(ledger, "over", steps=4)
    known = first_page(ledger, "over")[0]["What you must know"]
    assert "1 run executed more than was approved." in known
    assert "Some costs are estimates (bound clt): the true number may be higher." in known
    dataset(ledger, "raised", bound="certified")
    more = {"budget": {"epsilon": 4, "at_delta": 1e-5}, "reason": "the board agreed"}
    ok(ledger.put("/v1/datasets/raised/budget", more))
    said = first_page(ledger, "raised")[0]
    assert said["What you must know"] == ["The budget of raised was raised once."]
    assert "at most epsilon 4 at" in said["What was promised"][1]


@pytest.mark.parametrize("base_rate", [0.01, *disclosure.BASE_RATES, 0.9])
def test_how_often_a_property_is_guessed(base_rate: float) -> None:
    """Goal: the bound is 1 - f(b) of the theorem, and never less than guessing. Method: fifty digits, from the exact
    integers; nothing, little, much, and with a delta."""
    amounts = [Amount(0, 0), Amount(10**6, 0), Amount(10**12, 0), Amount(10**13, 10**13), Amount(10**14, 10**17)]
    found = disclosure.guessing_rates(amounts, base_rate=base_rate)
    with mpmath.workdps(DIGITS):
        for amount, rate in zip(amounts, found, strict=True):
            mu = mpmath.sqrt(mpmath.mpf(amount.mu_sq_pico) / 10**12)
            delta = -mpmath.expm1(-mpmath.mpf(amount.delta_atto) / 10**18)
            at = min(mpmath.mpf(base_rate) / (1 - delta), mpmath.mpf(1))
            best = delta + (1 - delta) * mpmath.ncdf(mpmath.sqrt(2) * mpmath.erfinv(2 * at - 1) + mu)
            assert abs(rate - best) <= 1e-12 * best
            assert rate >= base_rate
    assert found == sorted(found)


# --- when and by whom ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "html", "pdf", "csv"])
def test_the_date_and_the_contact_are_stated(ledger: Ledger, form: str) -> None:
    """Goal: the same journal, question and date give the same bytes; both are in what people read. Method: asked
    twice, of a dataset of its own."""
    name = f"stated-{form}"
    dataset(ledger, name)
    path = f"/v1/datasets/{name}/report"
    answers = [ledger.get(path, format=form, **STATED) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    first, again = (answer.content for answer in answers)
    assert first == again
    if form == "json":
        made = answers[0].json()["about"]["made"]
        assert made == {"on": STATED["made_on"], "contact": STATED["contact"], "software": document.SOFTWARE} | {
            "time_zone": "UTC"
        }
    elif form == "html":
        assert "on 2026-10-01 by privacy-ledger" in answers[0].text
        assert "Dr. Ada &lt;ada@example.org&gt;, room 7" in answers[0].text
    elif form == "pdf":
        text = " ".join(pypdf.PdfReader(io.BytesIO(first)).pages[0].extract_text().split())
        assert "on 2026-10-01 by privacy-ledger" in text
        assert STATED["contact"] in text


def test_without_a_date_there_is_the_software(ledger: Ledger) -> None:
    """Goal: a report that nobody dated says by what it was made, and names nobody."""
    dataset(ledger, "undated")
    text = ledger.get("/v1/datasets/undated/report", format="html").text
    assert f"by {document.SOFTWARE}; times are UTC" in text
    assert "<dt>Contact" not in text
    assert ok(ledger.get("/v1/report"))["about"]["made"]["on"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("made_on", "2026-02-30"),
        ("made_on", "today"),
        ("made_on", "1"),
        ("contact", ""),
        ("contact", "   "),
        ("contact", "a\nb"),
        ("contact", "x" * 201),
    ],
)
def test_what_cannot_be_stated(ledger: Ledger, field: str, value: str) -> None:
    """Goal: a date that there is not, and a text of more than a line, are refused by name."""
    for path in ("/v1/report", "/v1/datasets/none/report", "/v1/projects/none/report"):
        refused = ledger.get(path, **{field: value})
        assert (refused.status_code, refused.json()["field"]) == (422, field)


# --- how long it is --------------------------------------------------------------------------------------------------


def test_so_many_runs_have_few_pages(tmp_path: Path) -> None:
    """Goal: a report of 200 runs can be read in a meeting. Method: its PDF, read back: its pages, and each run in
    them."""
    question = Question("dataset", TENANT, "acme", dataset="events")
    seen = view.view_of(document.parts(Report(question, [Journal(RUNS, tmp_path).source()])))
    assert len(seen.document["runs"]) == RUNS
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf.page(seen))).pages]
    print(f"{len(pages)} pages for {RUNS} runs")
    assert len(pages) <= PAGES_MAX
    text = re.sub(r"\s", "", "".join(pages))
    assert all(run["run"] in text and run["hash"] in text for run in seen.document["runs"])
