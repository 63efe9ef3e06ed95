"""Drafts for the Deployments Registry: valid, true to the journal, and open about what they do not know."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ledger.accounting import amounts
from ledger.core.amounts import Amount
from ledger.errors import InvalidRequest, NotFound
from ledger.recompute import registry
from ledger.recompute.registry import MARK, RegistryEntry, as_json, as_yaml, registry_entry
from tests.accounting import oracle
from tests.kit.driver import Ledger, Terminal
from tests.kit.registry_schema import SCHEMA, WITH_ACCOUNTING
from tests.kit.scene import ok
from tests.recompute.test_recompute import GAUSSIAN, LAPLACE, ONE_DATABASE, POISSON, exported, filed, settled, typed

__all__ = ["typed"]
CERTIFIED: dict[str, Any] = {"bound": "certified", "budget": {"epsilon": 6, "at_delta": 1e-5}}


def check(entry: RegistryEntry, schema: dict[str, Any] = SCHEMA) -> Any:
    """The deployment, after the schema, both ways of writing it and its list of things to do were checked."""
    validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
    for text, read in ((as_json(entry), json.loads), (as_yaml(entry), yaml.safe_load)):
        body = read(text)
        assert body == json.loads(json.dumps(entry.body))
        validator.validate(body)
    marked = dict(_marks(entry.body["deployment"]))
    listed = dict(entry.to_do)
    assert {path.removesuffix(".0") for path in marked} <= set(listed), "whatever is marked is listed"
    for path, text in marked.items():
        assert listed[path.removesuffix(".0")] in text
    return entry.body["deployment"]


def _marks(value: Any, path: str = "") -> Any:
    if isinstance(value, str) and MARK in value:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _marks(item, f"{path}.{name}" if path else str(name))


def truth(amount: Amount, at_delta: float) -> float:
    """Epsilon of an amount at 50 digits."""
    mu, delta = math.sqrt(amount.mu_sq_pico) / 1e6, amounts.delta_of(amount)
    return float(oracle.epsilon(mu, delta, at_delta))


def test_a_dataset_is_a_valid_draft_with_the_guarantee_of_its_budget(ledger: Ledger) -> None:
    """Goal: (epsilon, delta) are what the budget guarantees, from above, and the details say mu and what is spent.

    Method: a registered dataset whose budget was lowered; epsilon at 50 digits from the highest limit of the journal.
    """
    ledger.register(title='Zahlen: "Ω" #1', description="Two lines,\nof which this is one.\n\n- a list", **CERTIFIED)
    settled(ledger, POISSON, code={"repository": "https://git.example/train", "commit": "abc123"})
    settled(ledger, GAUSSIAN)
    settled(ledger, GAUSSIAN)
    limit = ledger.balance()["limit"]
    spent = Amount(*ledger.balance()["spent"])
    ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"epsilon": 5.9, "at_delta": 1e-5}, "reason": "less"}))
    entry = registry_entry(exported(ledger))
    found = check(entry)
    assert found["basic"]["name"] == 'Zahlen: "Ω" #1'
    assert found["basic"]["data_product_type"] == "Machine learning model"
    assert found["dp_variant"]["variant_name"] == "Approximate DP"
    parameters = found["privacy_loss"]["privacy_parameters"]
    assert parameters["delta"] == 1e-5
    assert truth(Amount(*limit), 1e-5) <= parameters["epsilon"] <= 6
    assert parameters["epsilon"] == pytest.approx(6, rel=1e-6), "the budget was declared as this epsilon"
    details = found["privacy_loss"]["privacy_parameters_details"]
    for number in (amounts.mu_of(Amount(*limit)), amounts.mu_of(spent), truth(spent, 1e-5)):
        assert f"{number:.6g}" in details
    assert found["privacy_loss"]["number_of_privacy_units"] == 60_000
    assert "without one record" in found["privacy_loss"]["privacy_unit_details"]
    assert found["deployment_model"]["release_type"] == "Many releases"
    mechanisms = found["implementation"]["mechanisms"]
    assert mechanisms.startswith('- 2 × `{"count":4,"noise_multiplier":5,"type":"gaussian"}`')
    assert "https://git.example/train at commit abc123" in mechanisms
    assert found["administrative"]["status"] == "Draft"
    assert len(entry.to_do) == 19


@ONE_DATABASE
def test_a_run_is_a_valid_draft_with_what_it_was_charged(ledger: Ledger) -> None:
    """Goal: one run's own numbers, settled or not; its purpose and assumptions. One that used no data has no entry."""
    ledger.register(**CERTIFIED)
    short = settled(ledger, GAUSSIAN, {"steps": 1}, purpose="a table of counts")
    held = ok(ledger.ask(LAPLACE))["id"]
    voided = ok(ledger.ask(GAUSSIAN))["id"]
    ok(ledger.post(f"/v1/runs/{voided}/void", {"reason": "not needed"}))
    lines = exported(ledger)
    found = check(registry_entry(lines, run=short))
    assert found["privacy_loss"]["privacy_parameters"]["epsilon"] == pytest.approx(
        truth(Amount(10**12 // 25, 0), 1e-5), rel=1e-9
    )
    assert found["basic"]["intended_use"] == "a table of counts"
    assert (found["basic"]["data_product_type"], found["deployment_model"]["release_type"]) == (
        "Summary statistics",
        "One release",
    )
    assert "- assumed: noise is drawn from a secure generator" in found["implementation"]["mechanisms"]
    waiting = check(registry_entry(lines, run=held))
    assert "is not settled yet" in waiting["privacy_loss"]["privacy_parameters_details"]
    with pytest.raises(InvalidRequest, match="refused or voided"):
        registry_entry(lines, run=voided)
    with pytest.raises(NotFound, match="no run"):
        registry_entry(lines, run="somebody-elses")


@ONE_DATABASE
def test_an_estimate_says_so_and_partitions_count_as_the_fullest(ledger: Ledger) -> None:
    """Goal: `clt` is no guarantee and does not look like one; a partitioned dataset has one budget for each part, and
    what is spent is that of the fullest; an overrun that was drawn counts above the limit."""
    ledger.register(partitions=["a", "b"], size=None)
    run = settled(ledger, GAUSSIAN, datasets=[{"name": "mnist", "partitions": ["a"]}])
    assert run
    found = check(registry_entry(exported(ledger)))
    details = found["privacy_loss"]["privacy_parameters_details"]
    assert "not a guarantee" in details
    assert "2 disjoint partitions" in details
    assert "Spent so far is mu 0.4 " in details
    assert "number_of_privacy_units" not in found["privacy_loss"]
    assert found["deployment_model"]["data_source_type"] == "Static"
    assert "parallel" in found["implementation"]["composition"]
    ledger.register(name="over", adjacency="replace_one")
    over = ok(ledger.ask({**GAUSSIAN, "count": 20}, datasets=["over"]))["id"]
    ok(ledger.post(f"/v1/runs/{over}/start"))
    assert ledger.post(f"/v1/runs/{over}/settle", {"steps": 45}).status_code == 409
    found = check(registry_entry(exported(ledger, "over")))
    epsilon = found["privacy_loss"]["privacy_parameters"]["epsilon"]
    assert epsilon == pytest.approx(truth(Amount(18 * 10**11, 0), 1e-5), rel=1e-9)
    assert "in the place of" in found["privacy_loss"]["privacy_unit_details"]


@ONE_DATABASE
def test_the_other_layout_and_what_has_no_budget(ledger: Ledger) -> None:
    """Goal: a version of the schema with a section `accounting` is served too, and each layout is not the other; a
    derived dataset is what its root's entry is about."""
    ledger.register(**CERTIFIED)
    settled(ledger, GAUSSIAN)
    lines = exported(ledger)
    assert "composition" in check(registry_entry(lines, layout="accounting"), WITH_ACCOUNTING)["accounting"]
    with pytest.raises(jsonschema.ValidationError):
        check(registry_entry(lines, layout="accounting"))
    with pytest.raises(jsonschema.ValidationError):
        check(registry_entry(lines), WITH_ACCOUNTING)
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "mnist", "unit_preserving": True}]}))
    with pytest.raises(InvalidRequest, match="no budget"):
        registry_entry(exported(ledger, "copy"))


TEXTS = (
    ["plain", "", "- no list", "a: b # c", '"quoted" \\ back', "\ttab", "line\u2028separator", "yes", "1e5", "~"],
    [
        "two\nlines",
        " leads\nwith space",
        "ends\n",
        "\nbegins",
        "a\n\n  b",
        "bell\x07\nhere",
        "# x\n- y: z",
        "2026-11-27",
    ],
)


@pytest.mark.parametrize("text", [text for texts in TEXTS for text in texts])
def test_yaml_says_what_was_meant(text: str) -> None:
    """Goal: whatever a title or a purpose contains comes back as it was. Method: PyYAML reads what we write."""
    body = {"deployment": {"a": text, "b": [text, {"c": text}], "d": 1e-05, "e": 1.5e-7, "f": 3, "g": 2.5}}
    assert yaml.safe_load(as_yaml(RegistryEntry(body, ()))) == body


@ONE_DATABASE
def test_the_command_writes_a_file_and_lists_what_is_left(ledger: Ledger, tmp_path: Path, typed: Terminal) -> None:
    """Goal: YAML by default, JSON where asked, in a file or on standard output; the list goes to standard error."""
    ledger.register(**CERTIFIED)
    run = settled(ledger, GAUSSIAN)
    file = filed(ledger, tmp_path)
    said = typed(f"registry {file}")
    assert said.status == 0
    assert yaml.safe_load(said.out)["url_slug"].startswith("mnist-acme-2")
    assert "Complete or check these 2" in said.err
    assert "basic.data_product_region: what region" in said.err
    written = tmp_path / "entry.json"
    said = typed(f"registry {file} --run {run} --format json --output {written} --layout accounting")
    assert (said.status, said.out) == (0, "")
    assert json.loads(written.read_text())["deployment"]["accounting"]
    said = typed(f"registry {file} --run 1")
    assert (said.status, "There is no run 1" in said.err) == (5, True)
    assert typed(f"registry {file} --output {tmp_path}").status == 2


def test_the_marker_is_what_the_documentation_says() -> None:
    """Goal: who searches for the marker finds all of it."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "recompute.md").read_text()
    assert f"`{registry.MARK.strip()}" in page
