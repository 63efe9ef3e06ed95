"""Audit reports: what each part says, against what was done; the same in every format; the same bytes for the same
journal."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import mpmath
import pypdf
import pytest
from sqlalchemy import text

from ledger.access.keys import tenant_of
from ledger.core.entries import Sealed
from ledger.encoding import decode, encode
from ledger.errors import Overloaded
from ledger.report import document, figures, forms, html, pdf, reader, table, view
from ledger.report.blocks import Figure
from ledger.report.document import Report
from ledger.report.phrases import significant
from ledger.report.sections import balances
from ledger.report.source import Question, Source
from ledger.settings import Settings
from ledger.store import Store, engine_for
from ledger.verifier import verify
from tests.conftest import Templates
from tests.kit.driver import Ledger, Terminal, past_the_ledger
from tests.kit.journals import Book, journal_of_a_whole, journals_of_parts, reseal
from tests.kit.report_scene import FORMULA, HOSTILE, MODELS, Told, told
from tests.kit.scene import ok, somebody

SCHEMA = json.loads(resources.files("ledger").joinpath("report/schema.json").read_text())
MORE = 60
"""Digits of the oracle."""


@pytest.fixture(scope="module")
def scene(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A tenant in which all of it happened, on SQLite: a report is made of the journal, which is the same on both."""
    with (
        templates.clone("sqlite", tmp_path_factory.mktemp("report")) as settings,
        Ledger.open(settings) as opened,
    ):
        _made.clear()
        yield told(opened)


VALID = jsonschema.Draft202012Validator(SCHEMA)
_made: dict[tuple[Any, ...], dict[str, Any]] = {}


def report(scene: Told, path: str = "/v1/report", **asked: Any) -> dict[str, Any]:
    """A report in JSON, of the shape that its schema says. Nothing happens in the scene, so that each is asked for
    once."""
    key = (path, *sorted(asked.items()))
    if key not in _made:
        _made[key] = ok(scene.admin.get(path, **asked))
        VALID.validate(_made[key])
    return copy.deepcopy(_made[key])


def of(items: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The one item that has these members."""
    (found,) = [item for item in items if all(item[name] == value for name, value in wanted.items())]
    return found


def exact(amount: Mapping[str, str]) -> tuple[int, int]:
    """An amount's integers."""
    return int(amount["mu_sq_pico"]), int(amount["delta_atto"])


def added(amounts: Iterator[Mapping[str, str]]) -> tuple[int, int]:
    """Their sum."""
    found = [exact(amount) for amount in amounts]
    return sum(each[0] for each in found), sum(each[1] for each in found)


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_schema_is_one_and_lets_nothing_else_in(scene: Told) -> None:
    """Goal: the published schema is valid, closed, and says what everything is. Method: its own meta-schema; every
    object in it; a report with one more member anywhere."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    free = {"labels", "mechanism", "evidence", "proposes"}  # what somebody else wrote, as it was written

    def look(schema: Any, name: str = "") -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and name not in free:
                assert schema["additionalProperties"] is False, (name, schema)
            for key, value in schema.items():
                look(value, name if key in ("anyOf", "items") else key)
        elif isinstance(schema, list):
            for item in schema:
                look(item, name)

    look(SCHEMA)
    found = report(scene)
    found["runs"][0]["more"] = 1
    with pytest.raises(jsonschema.ValidationError):
        VALID.validate(found)


def test_it_answers_in_the_order_of_an_audit(scene: Told) -> None:
    """Goal: the parts come in the order in which they are asked for. Method: the members of the JSON as they stand."""
    assert list(report(scene)) == [
        "format", "version", "about", "verdict", "tenant_journal", "datasets", "accounts", "runs", "refusals",
        "overruns", "corrections", "overdue", "voids", "changes", "assumptions", "heads", "recompute",
    ]  # fmt: skip


def test_the_verdict(scene: Told) -> None:
    """Goal: a kept budget is called kept, an overdrawn one not, and an estimate an estimate."""
    found = report(scene)["verdict"]
    assert (found["kept"], found["journals_hold"], found["is_estimate"]) == (False, True, True)
    assert {item["dataset"]: item["kept"] for item in found["datasets"]} == {
        "ads": True, "ads.eu": True, "clicks": True, "papers": False
    }  # fmt: skip
    (passed,) = of(found["datasets"], dataset="papers")["exceeded"]
    settled = of(report(scene)["runs"], run=scene.runs["over"])["ended"]
    assert (passed["first_seq"], passed["first_at"]) == (settled["seq"], settled["at"])
    account = of(report(scene)["accounts"], dataset="papers")
    assert exact(passed["now"]) == exact(account["overdrawn"]) != (0, 0)
    assert not account["is_kept"]
    ads = report(scene, "/v1/datasets/ads/report")["verdict"]
    assert (ads["kept"], ads["is_estimate"], ads["datasets"][0]["limit_raised"]) == (True, False, 1)
    assert "Every budget is kept" in ads["sentence"]
    assert "papers" in found["sentence"]


def test_balances_are_the_ledgers_and_the_sums_of_the_runs(scene: Told) -> None:
    """Goal: every account has what the ledger says, to the unit, and what its runs add up to. Method: the API's
    answers; and sums made here, of the runs listed, by partition and project."""
    found = report(scene)
    for item in found["datasets"]:
        shown = ok(scene.admin.get(f"/v1/datasets/{item['name']}"))
        assert (item["balance"] is None) == (shown["balance"] is None)
        if shown["balance"] is not None:
            for mine, theirs in (("limit", "limit"), ("spent", "spent"), ("held", "held"), ("left", "remaining")):
                assert item["balance"][mine] == shown["balance"][theirs]
            limits = [(each["delta"], each["spent"], each["limit"]) for each in shown["epsilon"]]
            assert [(each["delta"], each["spent"], each["limit"]) for each in item["epsilon"]] == limits
    compared = 0
    for account in found["accounts"]:
        if account["kind"] == "principal":
            assert (account["attack"], account["epsilon"], exact(account["spent"])) == (None, [], (0, 0))
            continue
        scope = account["account"]
        runs = [
            run
            for run in found["runs"]
            if run["dataset"] == account["dataset"]
            and scope.get("partition") in (run["partitions"] or [None])
            and scope.get("project") in (None, run["project"])
        ]
        spent = added(run["charged"] for run in runs if run["charged"] is not None)
        held = added(run["cost"] for run in runs if run["state"] in ("held", "started"))
        assert (exact(account["spent"]), exact(account["held"])) == (spent, held), account
        limit, left = exact(account["limit"]), exact(account["left"])
        assert left == tuple(a - b - c for a, b, c in zip(limit, spent, held, strict=True))
        compared += 1
    assert compared == 10


def test_what_it_means_for_a_person(scene: Told) -> None:
    """Goal: epsilon, true-positive rates and advantage are those of the theorems. Method: from the exact integers, in
    sixty digits."""
    phi = mpmath.ncdf
    with mpmath.workdps(MORE):
        for account in report(scene)["accounts"]:
            for name in ("spent", "committed", "limit"):
                if account["attack"] is None:
                    continue
                pair = exact(account[name]) if name != "committed" else added(iter((account["spent"], account["held"])))
                mu, delta = mpmath.sqrt(mpmath.mpf(pair[0]) / 10**12), -mpmath.expm1(-mpmath.mpf(pair[1]) / 10**18)
                attack = account["attack"][name]
                advantage = delta + (1 - delta) * (2 * phi(mu / 2) - 1)
                assert abs(attack["advantage"] - advantage) <= 1e-14
                for at in attack["true_positive_rates"]:
                    rate = mpmath.mpf(at["false_positive_rate"])
                    quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * rate / (1 - delta) - 1)
                    best = delta + (1 - delta) * phi(quantile + mu)
                    assert abs(at["true_positive_rate"] - best) <= 1e-13 * best
                for at_delta in account["epsilon"]:
                    demand_epsilon(mu, delta, at_delta["delta"], at_delta[name])


def demand_epsilon(mu: Any, delta: Any, at_delta: float, epsilon: float | None) -> None:
    """It holds at this delta, and hardly any less would."""
    assert epsilon is not None

    def of_curve(eps: Any) -> Any:
        if mu == 0:
            return delta
        part = mpmath.ncdf(-eps / mu + mu / 2) - mpmath.exp(eps) * mpmath.ncdf(-eps / mu - mu / 2)
        return delta + (1 - delta) * part

    slack = mpmath.mpf(10) ** -11
    assert of_curve(mpmath.mpf(epsilon)) <= mpmath.mpf(at_delta) * (1 + slack)
    assert epsilon == 0 or of_curve(mpmath.mpf(epsilon) * (1 - mpmath.mpf(10) ** -9)) > at_delta * (1 - slack)


def test_every_run(scene: Told) -> None:
    """Goal: every run of each dataset that it reached, once, with all that the API says of it. Method: GET of each."""
    found = report(scene)["runs"]
    assert len(found) == len(scene.runs) + 1 == len({(run["dataset"], run["run"]) for run in found})
    for run in found:
        shown = ok(scene.admin.get(f"/v1/runs/{run['run']}"))
        request = shown["request"]
        assert (run["state"], run["asked_by"]) == (shown["state"], shown["asked_by"])
        assert run["seq"] == of(shown["datasets"], name=run["dataset"])["seq"]
        for name in ("purpose", "project", "code"):
            assert run[name] == request.get(name)
        assert (run["labels"], run["mechanism"]) == (request.get("labels", {}), request["mechanism"])
        for name in ("cost", "bound", "method", "assumptions", "adjacency", "accountant", "start_by"):
            assert run[name] == shown[name], name
        if run["state"] == "settled":
            assert (run["charged"], run["returned"]) == (shown["settled"]["charged"], shown["settled"]["returned"])
            assert (run["executed_steps"], run["stop"]) == (shown["settled"].get("steps"), shown["settled"]["stop"])
            assert run["restarts"] == shown["settled"].get("restarts")
            assert run["models"] == shown["settled"].get("models")
            assert run["settled_assuming"] == shown["settled"].get("assumptions", [])
        entries = ok(scene.admin.get(f"/v1/datasets/{run['dataset']}/entries", limit=1000))["items"]
        assert of(entries, seq=run["seq"])["hash"] == run["hash"]
    early, estimate = (of(found, run=scene.runs[name]) for name in ("early", "estimate"))
    assert (early["planned_steps"], early["executed_steps"], early["stop"]) == (12, 5, "data_dependent")
    assert (early["restarts"], estimate["restarts"]) == ([], None)
    assert (early["models"], estimate["models"]) == (MODELS, None)
    assert "it is assumed that no step was run again" in estimate["settled_assuming"][0]
    assumed = [item["sentence"] for item in report(scene)["assumptions"]]
    assert any(estimate["settled_assuming"][0] in sentence for sentence in assumed)
    assert (early["is_estimate"], estimate["is_estimate"], estimate["planned_steps"]) == (False, True, 3515)
    # What is left after a run is what the next one finds: the exact remainder of the tightest account.
    assert exact(early["left_at_end"]) == exact(of(found, run=scene.runs["refused"])["left_after_decision"])


def test_what_stands_beside_the_runs(scene: Told) -> None:
    """Goal: refusals with what bound, overruns, overdue holds, voids with reasons and both people, and changes with
    reasons and who approved."""
    found = report(scene)
    (refused,) = found["refusals"]
    assert refused["run"] == scene.runs["refused"]
    assert [(each["account"], each["quantity"]) for each in refused["binding"]] == [
        ({}, "mu"), ({"project": "ranking"}, "mu")
    ]  # fmt: skip
    assert all(exact(refused["asked"])[0] > exact(each["left"])[0] for each in refused["binding"])
    fits, over = found["overruns"]
    assert (fits["repeated"], over["repeated"]) == (0, 0)
    assert (fits["run"], fits["steps"], fits["fits"]) == (scene.runs["over fits"], 1, True)
    assert (over["run"], over["steps"], over["frozen"]) == (scene.runs["over"], 24, ["papers"])
    (late,) = found["overdue"]
    assert (late["run"], late["state"]) == (scene.runs["late"], "held")
    assert late["due"] < found["about"]["as_of"]
    one, two = found["voids"]
    assert (one["reason"], one["was"], one["proposed_by"]) == ("the job was cancelled", "held", None)
    assert (two["reason"], two["was"]) == ("the node died before the first batch", "started")
    assert two["proposed_by"]["principal"] != two["by"]["principal"]
    raised = [each for each in found["changes"] if each["kind"] == "budget-set"]
    assert [each["reason"] for each in raised] == ["the board agreed on 12 November"]
    assert raised[0]["proposed_by"]["principal"] != raised[0]["by"]["principal"]
    assert exact(raised[0]["details"]["limit"]) > exact(raised[0]["details"]["limit_before"])
    kinds = [each["kind"] for each in found["changes"]]
    assert kinds.count("change-proposed") == 4
    assert of(found["changes"], kind="proposal-refused")["reason"] == "the board did not agree to that"
    states = [each["details"]["state"] for each in found["changes"] if each["kind"] == "dataset-changed"]
    assert states == ["frozen", "active"]
    assert found["tenant_journal"]["second_steward"] is True
    assert [policy["reason"] for policy in found["tenant_journal"]["policies"]] == [
        "agreed with the data protection officer"
    ]


def test_what_the_numbers_rest_on(scene: Told) -> None:
    """Goal: unit, adjacency, disjointness, derivation and sampling in words, and estimates marked."""
    found = report(scene)
    about: dict[str, dict[str, str]] = {}
    for item in found["assumptions"]:
        about.setdefault(item["dataset"], {})[item["about"]] = item["sentence"]
    assert "one user" in about["ads"]["privacy unit"]
    assert "one user more" in about["ads"]["adjacency"]
    assert "Poisson" in about["ads"]["sampling"]
    assert "no user is in two" in about["clicks"]["disjointness"]
    assert "derived from ads" in about["ads.eu"]["derivation"]
    assert "estimates" in about["papers"]["bound"]
    assert "certified" in about["ads"]["bound"]
    for part in ("datasets", "accounts", "runs", "refusals", "overruns", "overdue"):
        for item in found[part]:
            assert item["is_estimate"] == (item.get("dataset", item.get("name")) == "papers")


def test_where_the_journals_end_and_how_to_go_on(scene: Told) -> None:
    """Goal: each head is the one that the API shows; every command that is named is one that there is."""
    found = report(scene)
    for head in found["heads"]:
        path = "/v1/head" if head["dataset"] is None else f"/v1/datasets/{head['dataset']}/head"
        shown = ok(scene.admin.get(path))
        assert (head["seq"], head["hash"]) == (shown["seq"], shown["hash"])
        assert (head["counted_seq"], head["counted_hash"]) == (head["seq"], head["hash"])
    assert [head["dataset"] for head in found["heads"]] == [None, "ads", "ads.eu", "clicks", "papers"]
    assert "privacy-ledger verify ads.jsonl --jwks jwks.json" in found["recompute"]["commands"]
    assert {each["quantity"] for each in found["recompute"]["formulas"]} >= {"mu", "delta", "best advantage"}


# --- scopes and periods ----------------------------------------------------------------------------------------------


def test_the_least_limit_of_residual_costs(scene: Told) -> None:
    """Goal: beside what is spent stands that it is a share of the budget, and the least limit that an auditor computes
    from the export. Method: each dataset's export; the page; a project's report and standalone datasets have none."""
    found = report(scene)["datasets"]
    text = Read(scene.admin.get("/v1/report", format="html").text).text
    shown = 0
    for item in found:
        exported = scene.admin.get(f"/v1/datasets/{item['name']}/export").text.splitlines(keepends=True)
        verified = verify.verify(exported)
        assert isinstance(verified, verify.Verified)
        least = verified.journal.least_limit
        assert (item["least_limit"] is None) == (least is None or item["costing"] == "standalone")
        if item["least_limit"] is not None and least is not None:
            assert exact(item["least_limit"]["amount"]) == (least.mu_sq_pico, least.delta_atto)
            epsilons = [at_delta["epsilon"] for at_delta in item["least_limit"]["epsilon"]]
            assert len(epsilons) == len(item["epsilon"])
            assert all(significant(epsilon, up=True) in text for epsilon in epsilons)
            shown += 1
    assert shown == text.count(balances.SHARE) - 1 == 2, "and once over the other accounts"
    of_project = report(scene, "/v1/projects/search/report")["datasets"]
    assert [item["least_limit"] for item in of_project] == [None, None]


def test_a_project(scene: Told) -> None:
    """Goal: a project's report has its shares and its runs on every dataset, and nobody else's."""
    found = report(scene, "/v1/projects/search/report")
    assert found["about"]["datasets"] == ["ads", "clicks"]
    assert {run["run"] for run in found["runs"]} == {scene.runs[name] for name in ("part", "held", "void", "running")}
    assert {account["account"]["project"] for account in found["accounts"]} == {"search"}
    assert {item["name"]: item["totals"]["runs"] for item in found["datasets"]} == {"ads": 2, "clicks": 2}
    assert scene.admin.get("/v1/projects/nothing/report").status_code == 404


def test_a_period(scene: Told) -> None:
    """Goal: the runs of a period, what it began with, and what it came to; a period and the next one add up. Method:
    cut in two at a moment between."""
    first = report(scene, to=scene.middle)
    second = report(scene, **{"from": scene.middle})
    whole = report(scene)
    assert (first["about"]["as_of"], second["about"]["as_of"]) == (scene.middle, whole["about"]["as_of"])
    decided = [run["run"] for part in (first, second) for run in part["runs"] if not run["is_carried_in"]]
    assert sorted(decided) == sorted(run["run"] for run in whole["runs"])
    assert {run["run"] for run in second["runs"] if run["is_carried_in"]} == {
        scene.runs["late"],
        scene.runs["estimate"],
    }
    assert all(run["at"] < scene.middle for run in first["runs"])
    for account in second["accounts"]:
        before = [
            a for a in first["accounts"] if (a["dataset"], a["account"]) == (account["dataset"], account["account"])
        ]
        assert (account["opening"] is None) == (not before)
        if before:
            parts = ("limit", "spent", "held", "left")
            assert account["opening"] == {part: before[0][part] for part in parts}
    for name in ("ads", "papers", "clicks"):
        sums = [exact(of(part["datasets"], name=name)["totals"]["charged"]) for part in (first, second, whole)]
        assert sums[2] == tuple(map(sum, zip(*sums[:2], strict=True)))
    assert (first["verdict"]["kept"], second["verdict"]["kept"]) == (True, False)
    assert first["overdue"] == [] or first["overdue"][0]["run"] == scene.runs["late"]
    nothing = report(scene, to="2001-01-01T00:00:00Z")
    assert (nothing["runs"], nothing["accounts"], nothing["verdict"]["kept"]) == ([], [], True)
    assert scene.admin.get("/v1/report", **{"from": scene.middle, "to": scene.middle}).status_code == 422
    assert scene.admin.get("/v1/report", to="9999-12-31T23:59:59-23:59").status_code == 422
    assert scene.admin.get("/v1/report", to="1700000000").status_code == 422


def test_a_limited_key_sees_its_datasets_alone(scene: Told) -> None:
    """Goal: a key that is limited to datasets gets a report of these, which says so, and no word of the others."""
    limited = scene.limited
    found = ok(limited.get("/v1/report"))
    assert (found["about"]["restricted_to"], found["about"]["datasets"]) == (["clicks"], ["clicks"])
    assert found["tenant_journal"] is None
    assert "ads" not in {item["dataset"] for item in found["assumptions"]}
    assert limited.get("/v1/datasets/ads/report").status_code == 404
    assert limited.get("/v1/projects/ranking/report").status_code == 404
    assert ok(limited.get("/v1/projects/search/report"))["about"]["datasets"] == ["clicks"]


# --- pages -----------------------------------------------------------------------------------------------------------


class Read(HTMLParser):
    """An HTML file as a reader gets it: its text, its elements, and what it would load."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._inside and "svg" not in self._inside:
            self.words.append(data)


def numbers_of(found: dict[str, Any]) -> list[str]:
    """What of a report has to be found in its pages, as they write it."""
    shown = [found["verdict"]["sentence"], found["about"]["tenant"]["name"]]
    for item in found["accounts"]:
        shown += [f"{int(item[part]['mu_sq_pico']):,}" for part in ("limit", "spent", "held", "left")]
    limits = {}
    for item in found["datasets"]:
        shown += [significant(each["spent"], up=True) for each in item["epsilon"]]
        if item["balance"] is not None:
            limits[item["name"]] = int(item["balance"]["limit"]["mu_sq_pico"])
    for item in [*found["runs"], *found["overruns"], *found["overdue"]]:
        if limits.get(item["dataset"]):
            part = 100 * Decimal(item["cost"]["mu_sq_pico"]) / limits[item["dataset"]]
            rounded = part.quantize(Decimal(1).scaleb(part.adjusted() - 3), ROUND_CEILING)  # four digits
            shown.append(f"{rounded.normalize():f} % of the limit")
    for run in found["runs"]:
        shown += [run["run"], run["hash"], run["method"], significant(run["cost"]["mu"])]
        shown += list((run["code"] or {}).values())
        shown += [model["sha256"] for model in run["models"] or ()]
    shown += [head["hash"] for head in found["heads"]]
    shown += [each["reason"] for each in found["voids"]]
    return shown


def test_html_stands_alone_and_says_the_same(scene: Told) -> None:
    """Goal: one file that loads nothing, runs nothing, has its figures and the numbers of the JSON, and in which what
    somebody wrote is text. Method: its elements and its text."""
    answer = scene.admin.get("/v1/report", format="html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == forms.HTML_POLICY
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    read = Read(answer.text)
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "form", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"href", "src", "xlink:href"}:
                assert (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"url\((?!#)|@import|http-equiv", answer.text)
    assert ("html", {"lang": "en"}) in read.tags
    assert {attributes["scope"] for tag, attributes in read.tags if tag == "th"} == {"col", "row"}
    drawn = [str(attributes["data-figure"]) for tag, attributes in read.tags if tag == "figure"]
    # `ads.eu` has no budget of its own, but runs of no project.
    assert sorted(set(drawn)) == ["burn_down", "epsilon", "projects", "trade_off"]
    assert len(drawn) == sum(tag == "svg" for tag, _ in read.tags) == 12
    assert HOSTILE in read.text
    assert FORMULA in read.text
    for wanted in numbers_of(report(scene)):
        assert wanted in read.text, wanted
    assert "≈" in read.text
    assert "not a guarantee" in read.text or "no guarantee" in read.text


def test_pdf_says_the_same(scene: Told) -> None:
    """Goal: a PDF with the numbers of the JSON, its figures, bookmarks, page numbers and embedded fonts. Method: read
    back by pypdf. Long words are broken over lines, so that spaces are left out on both sides."""
    path = "/v1/datasets/ads/report"
    answer = scene.admin.get(path, format="pdf")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == 'attachment; filename="privacy-report-ads.pdf"'
    read = pypdf.PdfReader(io.BytesIO(answer.content))
    pages = [page.extract_text() for page in read.pages]
    assert report(scene, path)["verdict"]["sentence"].split(".")[0] in " ".join(pages[0].split())
    for number, page in enumerate(pages, start=1):
        assert f"page {number} of {len(pages)}" in page
    squeezed = re.sub(r"\s", "", "".join(pages))
    for wanted in numbers_of(report(scene, path)):
        assert re.sub(r"\s", "", wanted) in squeezed, wanted
    assert sum(len(page.images) for page in read.pages) == 4
    fonts: list[Any] = [entry.get_object() for entry in read.pages[1]["/Resources"]["/Font"].values()]  # type: ignore[index]
    used = [font for font in fonts if "Helvetica" not in font["/BaseFont"]]  # which reportlab names in every file
    assert used
    assert all("/FontFile2" in font["/FontDescriptor"].get_object() for font in used)
    titles = [item.title for item in read.outline if not isinstance(item, list)]
    assert titles[:3] == ["Is every budget kept?", "Spent, held and remaining budget", "All runs"]
    assert read.metadata is not None
    assert read.metadata.get("/CreationDate", "2000").count("2000") == 1


def test_csv_is_for_spreadsheets_and_harms_none(scene: Told) -> None:
    """Goal: a row for each run with its exact integers, and no cell that a spreadsheet would run. Method: the csv
    module, against the JSON."""
    answer = scene.admin.get("/v1/report", format="csv")
    assert answer.headers["content-type"].startswith("text/csv")
    head, *rows = csv.reader(io.StringIO(answer.text, newline=""), strict=True)
    assert head == list(table.COLUMNS)
    runs = report(scene)["runs"]
    assert len(rows) == len(runs)
    for cells, run in zip(rows, runs, strict=True):
        row = dict(zip(head, cells, strict=True))
        assert (row["dataset"], row["run"], row["seq"]) == (run["dataset"], run["run"], str(run["seq"]))
        assert (row["cost_mu_sq_pico"], row["cost_delta_atto"]) == tuple(
            run["cost"][name] for name in ("mu_sq_pico", "delta_atto")
        )
        assert row["charged_mu_sq_pico"] == ("" if run["charged"] is None else run["charged"]["mu_sq_pico"])
        assert json.loads(row["mechanism_parameters"]) == run["mechanism"]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))]
    assert f"'{FORMULA}" in {dict(zip(head, cells, strict=True))["purpose"] for cells in rows}
    for wrong in ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-x", "+1"):
        assert table.guarded(wrong) == f"'{wrong}"
    for right in ("-12", "-1.5e-9", "1-1", "a=b", ""):
        assert table.guarded(right) == right


def test_pages_are_made_of_the_json_alone(scene: Told) -> None:
    """Goal: HTML, PDF and CSV are views of the JSON. Method: make them of the JSON that the API gave, read back with
    every digit; they are the bytes that the API gives."""
    path = "/v1/datasets/ads.eu/report"
    said = decode(scene.admin.get(path).text)
    seen = view.view_of(said.items())
    assert html.page(seen) == scene.admin.get(path, format="html").text
    assert pdf.page(seen) == scene.admin.get(path, format="pdf").content
    assert "".join(table.rows(said.items())) == scene.admin.get(path, format="csv").text


@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_same_journal_gives_the_same_bytes(scene: Told, form: str) -> None:
    """Goal: who asks again gets the same file. HTML and PDF were made twice above."""
    path = "/v1/report"
    first, again = (scene.admin.get(path, format=form).content for _ in range(2))
    assert first == again
    assert len(first) > 1000


def test_figures_are_drawn_of_the_least_and_the_most() -> None:
    """Goal: no balance is too small, too short or too long to be drawn. Method: one point, nothing spent, no epsilon at
    all, forty projects; the same bytes, where one is drawn twice."""
    zero, much = {"mu_sq_pico": "0"}, {"mu_sq_pico": str(2**62)}
    at = "2026-01-01T00:00:00.000000Z"
    point = {"at": at, "seq": 1} | {f"{name}_mu_sq_pico": "0" for name in ("limit", "spent", "held")}
    projects = [{"project": f"p{number}" * 20, "spent": much, "held": zero} for number in range(40)]
    drawn = [
        Figure("burn_down", "c", [point], True, at),
        Figure("burn_down", "c", [point, {**point, "at": "2026-02-01T00:00:00.000000Z"}], False, None),
        Figure("projects", "c", [{"project": None, "spent": zero, "held": zero}], False, None),
        Figure("projects", "c", projects, False, None),
        Figure("trade_off", "c", {"type_i_error": [0, 1], "spent": [1, 0], "limit": [0, 0]}, False, None, True),
        Figure("epsilon", "c", {"delta": [1e-9, 1e-2], "spent": [0, 0], "limit": [None, None]}, False, None, True),
    ]
    for each in drawn:
        assert b"<path" in figures.draw(each, "svg")
    assert figures.draw(drawn[-1], "svg") == figures.draw(drawn[-1], "svg")
    assert figures.draw(drawn[0], "png") == figures.draw(drawn[0], "png")


# --- journals that do not hold ---------------------------------------------------------------------------------------


def report_of(
    made: Book, entries: Sequence[tuple[str, bytes] | Sealed], *, head: tuple[int, bytes] | None = None
) -> dict[str, Any]:
    """The report of a journal made without a database."""
    dataset_id = next(iter(made.journals))
    seq, hash_ = head or (len(entries), entries[-1][1])
    name = decode(entries[0][0])["dataset"]

    sealed = [Sealed(*entry) for entry in entries]

    def of_runs(ids: Any) -> dict[Any, list[Sealed]]:
        return {run: [each for each in sealed if f'"run":"{run}"' in each.body] for run in ids}

    source = Source(
        dataset_id,
        name,
        decode(entries[-1][0])["at"],
        {"seq": seq, "hash": hash_.hex()},
        lambda: iter(sealed),
        of_runs,
    )
    question = Question("dataset", UUID(decode(entries[0][0])["tenant"]), "acme", dataset=name)
    found: dict[str, Any] = json.loads("".join(document.lines(Report(question, [source]))))
    VALID.validate(found)
    return found


def test_a_journal_of_every_kind_of_entry(scene: Told) -> None:
    """Goal: whatever can stand in a journal has its place in a report. Method: the journals that the tests of replay
    use, with entries of every kind."""
    for made in (journal_of_a_whole(), journals_of_parts()):
        found = report_of(made, made.sealed(next(iter(made.journals))))
        assert found["verdict"]["journals_hold"]
        assert found["runs"]
    assert scene.runs


def forged(entry: dict[str, Any]) -> None:
    """A change that no arithmetic allows: a balance out of nothing."""
    entry["balance"]["spent"]["mu_sq_pico"] += "1"


def test_a_broken_journal_is_said(scene: Told) -> None:
    """Goal: what does not hold is said with its number, and nothing after it is counted. Method: every entry of a
    journal, changed with all hashes made right again; and entries cut off at the end."""
    made = journal_of_a_whole()
    whole = made.entries
    told_broken = 0
    for index, (body, _) in enumerate(whole):
        changed = list(whole)
        if "balance" not in decode(body):
            continue
        reseal(changed, index, forged)
        found = report_of(made, changed)
        item = found["verdict"]["datasets"][0]
        assert (found["verdict"]["kept"], item["holds"]) == (False, False)
        assert item["broken"]["seq"] == index + 1
        assert str(index + 1) in found["verdict"]["sentence"]
        assert all(run["seq"] <= index for run in found["runs"])
        assert found["heads"][0]["counted_seq"] == index
        told_broken += 1
    assert told_broken > 10
    cut = report_of(made, whole[:-2], head=(len(whole), whole[-1][1]))
    assert cut["verdict"]["datasets"][0]["broken"] == {
        "seq": len(whole) - 1,
        "detail": f"is missing: the head has {len(whole)} entries",
    }
    assert scene.runs


def test_a_change_in_the_database_is_said(database: Settings) -> None:
    """Goal: an entry that somebody with the database changed is named, by JSON and HTML alike. Method: such an
    entry, on every database."""
    with Ledger.open(database) as ledger:
        ledger.register()
        for _ in range(3):
            ok(ledger.ask())
        before = ok(ledger.get("/v1/datasets/mnist/report"))
        assert before["verdict"]["kept"]
        engine = past_the_ledger(database)
        with engine.begin() as connection:
            drop = (
                "DROP TRIGGER entries_no_update"
                if engine.dialect.name == "sqlite"
                else "ALTER TABLE entries DISABLE TRIGGER USER"
            )
            connection.exec_driver_sql(drop)
            changed = "UPDATE entries SET body = replace(body, 'noise_multiplier', 'noise_multiplied') WHERE seq = 3"
            assert connection.execute(text(changed)).rowcount == 1
        engine.dispose()
        after = ok(ledger.get("/v1/datasets/mnist/report"))
        assert after["verdict"]["datasets"][0]["broken"]["seq"] == 3
        assert [run["seq"] for run in after["runs"]] == [2]
        assert "entry 3" in ledger.get("/v1/datasets/mnist/report", format="html").text


def test_reports_on_every_database(ledger: Ledger, store: Store) -> None:
    """Goal: the reader finds the same on every database. Method: the scene; balances against the API, and the project's
    datasets."""
    scene = told(ledger)
    found = ok(ledger.get("/v1/report"))
    assert {run["run"] for run in found["runs"]} == set(scene.runs.values())
    with store.reading(tenant_of(ledger.key)) as reading:
        assert reading.datasets.names_in_project("ranking") == {"ads"}
        assert reading.datasets.names_in_project("search") == {"ads", "clicks"}
        assert reading.datasets.names_in_project("none") == frozenset()
    for item in found["datasets"]:
        shown = ok(ledger.get(f"/v1/datasets/{item['name']}"))["balance"]
        assert (item["balance"] and exact(item["balance"]["spent"])) == (shown and exact(shown["spent"]))


# --- the calls -------------------------------------------------------------------------------------------------------


def test_few_are_made_at_once(scene: Told) -> None:
    """Goal: reports do not take a server over: beyond a few at once the answer is 503, and when one is done another is
    made. Method: every turn taken."""
    room = scene.admin.client.app.state.streams
    for shares, form in ((room.reports, "html"), (room.reports, "csv")):
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Overloaded):
                for number in itertools.count():
                    stack.enter_context(shares.one(somebody(tenant=number)))
            assert shares.taken > 0
            refused = scene.admin.get("/v1/datasets/ads.eu/report", format=form)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) > 0
        for _ in range(5 if form == "csv" else 1):
            assert scene.admin.get("/v1/datasets/ads.eu/report", format=form).status_code == 200
        assert shares.taken == 0


def test_a_format_that_there_is_not(scene: Told) -> None:
    """Goal: the error names the field."""
    refused = scene.admin.get("/v1/report", format="docx")
    assert (refused.status_code, refused.json()["field"]) == (422, "format")


def test_the_command(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: a report in a file or on standard output, in the format that the file's name says; what is wrong is said in
    one line. Method: the command, typed."""
    assert terminal("dataset create mnist --mu 1 --bound clt").status == 0
    assert terminal("request mnist --noise-multiplier 5 --type gaussian").status in (0, 2)
    shown = json.loads(terminal("report mnist").out)
    assert shown["about"]["dataset"] == "mnist"
    for name, begins in (("r.pdf", b"%PDF-"), ("r.csv", b"dataset,"), ("r", b"{\n")):
        said = terminal(f"report --tenant --to 2001-01-01T00:00:00Z --output {tmp_path / name}")
        assert said.status == 0, said.err
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert json.loads(terminal(f"report mnist --output {tmp_path / 'again.json'} --json").out)["format"] == "json"
    again = terminal(f"report mnist --output {tmp_path / 'r.pdf'}")
    assert (again.status, "--force" in again.err) == (2, True)
    for wrong in ("report", "report mnist --tenant", "report mnist --project p"):
        assert terminal(wrong).status == 2
    assert terminal("report --project nothing").status == 5
    assert terminal("report mnist --from soon").status == 2
    assert terminal("report mnist --from yesterday --to now").status == 0
    empty = json.loads(terminal("report mnist --to 2001-01-01T00:00:00Z").out)
    assert empty["runs"] == []
    assert json.loads(terminal("report --schema").out) == SCHEMA


def test_no_pdf_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: nobody gets their screen full of bytes. Method: a standard output that is a terminal, and no server."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    said = Terminal(monkeypatch, capfd)("report --tenant --format pdf")
    assert (said.status, "--output" in said.err) == (2, True)


def test_text_keeps_every_digit() -> None:
    """Goal: numbers go out as they were written, and what JSON does not have does not go out."""
    said = '{"a":0.00426667,"b":[1,12345678901234567890,1.1000000000000000000001],"c":{"d":"\\u0001ü\\"","e":null}}'
    assert encode(decode(said)) == said
    assert encode({"a": 1e-05, "b": 0.1}) == '{"a":1e-05,"b":0.1}'
    for wrong in (float("nan"), float("inf"), {"a": [float("-inf")]}, b"", {1, 2}):
        with pytest.raises(TypeError):
            encode(wrong)


def test_the_reader_ends_where_it_began(database: Settings) -> None:
    """Goal: what is decided while a report is sent is not in it. Method: a run between opening and reading."""
    with Ledger.open(database) as ledger:
        ledger.register()
        ok(ledger.ask())
        store = Store(engine_for(database.database_url.get_secret_value()))
        question = Question("dataset", tenant_of(ledger.key), "acme", dataset="mnist")
        opened = reader.opened(store, question, signed_head=reader.unsigned)
        first = "".join(document.lines(opened))
        ok(ledger.post(f"/v1/runs/{json.loads(first)['runs'][0]['run']}/start"))
        ok(ledger.ask())
        assert "".join(document.lines(opened)) == first
        store.close()


def test_the_page_about_reports_is_complete() -> None:
    """Goal: whoever reads a report finds every part of it explained, and every column, and the bounds that count."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "report.md").read_text()
    for name in (*SCHEMA["required"][2:], *table.COLUMNS):
        assert f"`{name}`" in page, name
    for bound in (view.RUNS_OF_DATASET_MAX, view.RUNS_MAX, view.ACCOUNTS_MAX, view.DATASETS_MAX, view.FIGURES_MAX):
        assert f"{bound:,} " in page or f"{bound:,}." in page or f"first\n{bound}" in page, bound
