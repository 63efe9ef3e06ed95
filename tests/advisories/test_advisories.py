"""The known faults of accountants and libraries: each has its source, finds what it is about, and nothing else."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import jsonschema
import pytest

from ledger.accounting import mechanisms
from ledger.advisories import Advisory, advisories, advisory, recorded, touched
from ledger.advisories.catalogue import FOLDER
from ledger.advisories.match import Touched
from ledger.advisories.recorded import MEMBERS_MAX
from ledger.advisories.versions import release, satisfies
from ledger.errors import InvalidRequest

LIBRARIES: Final = {one.library for one in advisories()}
EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    entry["id"]: entry
    for file in FOLDER.iterdir()
    if file.name.endswith(".toml")
    for entry in tomllib.loads(file.read_text())["advisory"]
}
"""The entries as they are written, which have a run that each finds (`touches`) and one that it leaves (`leaves`)."""
BY_ID: Final = pytest.mark.parametrize("one", advisories(), ids=lambda one: one.id)


def run_of(one: Advisory, example: str = "touches") -> dict[str, Any]:
    """A settled run, as answers show it, of one of an advisory's examples."""
    written = copy.deepcopy(EXAMPLES[one.id][example])
    return {
        "adjacency": written["adjacency"],
        "request": {"mechanism": written["mechanism"], "labels": {}},
        "settled": {"evidence": written["evidence"]},
    }


def found(one: Advisory, run: dict[str, Any]) -> Touched | None:
    """How an advisory touches a run as answers show it."""
    return touched(one, recorded(run, known=LIBRARIES))


def test_the_files_are_as_their_schema() -> None:
    """Goal: at least thirty faults, each with source, versions, direction and examples, and ids that are not reused.
    Method: the pinned schema on every file, and what it cannot express."""
    schema = json.loads(FOLDER.joinpath("schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for file in FOLDER.iterdir():
        if file.name.endswith(".toml"):
            jsonschema.validate(tomllib.loads(file.read_text()), schema)
    known = advisories()
    assert len({one.id for one in known}) == len(known) >= 30
    for one in known:
        assert one.direction in {"too_little", "too_much", "unknown_spend"} or one.factor is None, one.id
        assert set(one.when.mechanisms) <= mechanisms.BY_TYPE.keys(), one.id
        for example in ("touches", "leaves"):
            mechanisms.parse(EXAMPLES[one.id][example]["mechanism"])


@BY_ID
def test_each_finds_its_example_and_leaves_the_other(one: Advisory) -> None:
    """Goal: an advisory finds a recorded run that it is about, and leaves one alone that differs. Method: the two
    examples of its file, as they are written."""
    how = found(one, run_of(one))
    assert how is not None
    assert how.is_certain
    assert found(one, run_of(one, "leaves")) is None


def changed(one: Advisory) -> Iterator[tuple[str, dict[str, Any]]]:
    """The run that an advisory finds, with one of its conditions no longer so, for each condition."""
    other = run_of(one)
    text = json.dumps(other["settled"]["evidence"])
    spelling = rf'"{one.library}"|"{one.library.replace("-", "_")}"'
    other["settled"]["evidence"] = json.loads(re.sub(spelling, '"another-library"', text))
    yield "library", other
    if one.when.mechanisms:
        other = run_of(one)
        other["request"]["mechanism"]["type"] = "another"
        yield "mechanism", other
    if one.when.samplings:
        other = run_of(one)
        other["request"]["mechanism"]["sampling"] = "another"
        yield "sampling", other
    if one.when.adjacencies:
        yield "adjacency", {**run_of(one), "adjacency": "another"}
    for name, wanted in one.when.options.items():
        other = run_of(one)
        options = other["settled"]["evidence"]["options"]
        options[name] = wanted if isinstance(wanted, float) else "another"
        yield name, other
    yield "ruled out", {**run_of(one), "reported": {"evidence": {"rules_out": [one.id]}}}
    if one.versions != "*":
        other = run_of(one)
        version = next(number for number in ((0,), (99,)) if not satisfies(number, one.versions))
        text = json.dumps(other["settled"]["evidence"])
        other["settled"]["evidence"] = json.loads(re.sub(r'("[\w-]+": )"[\d.]+"', rf'\1"{version[0]}"', text))
        yield "versions", other


@BY_ID
def test_each_condition_counts(one: Advisory) -> None:
    """Goal: no condition of an advisory is without effect. Method: from the run that it finds, change what one
    condition is about, for each condition, and its library and version."""
    for condition, run in changed(one):
        assert found(one, run) is None, condition


@BY_ID
def test_what_is_not_recorded_clears_nothing(one: Advisory) -> None:
    """Goal: a run that records the library alone may be touched, and the answer names what it does not record.
    Method: the run that an advisory finds, without its options and version."""
    run = run_of(one)
    run["settled"]["evidence"] = {"libraries": {one.library: None}}
    how = found(one, run)
    assert how is not None
    version = () if one.versions == "*" else ("version",)
    assert how.unrecorded == (*version, *one.when.options)
    del run["settled"]
    assert not recorded(run, known=LIBRARIES).libraries
    run["request"]["labels"] = {f"library.{one.library}": "99.9"}
    assert recorded(run, known=LIBRARIES).libraries == {one.library: {"99.9"}}


def test_a_text_that_is_no_number_clears_nothing() -> None:
    """Goal: a limit on a number is not passed by what is no number. Method: such values of one option."""
    one = next(one for one in advisories() if one.when.options.get("world_size") == 1)
    for value, is_found in ((1, False), (2, True), ("nan", True), ("-nan", True), ("many", True), ("-inf", False)):
        run = run_of(one)
        run["settled"]["evidence"]["options"]["world_size"] = value
        assert (found(one, run) is not None) == is_found, value


@pytest.mark.parametrize(
    "evidence",
    [
        {"libraries": {"opacus": "1.6.0", "torch": "2.13.0"}, "options": {"poisson_sampling": False}},
        {"libraries": {"Opacus": {"version": "1.6.0"}}, "Poisson-Sampling": "False"},
        {"library": "opacus", "version": "1.6.0", "options": {"poisson_sampling": "false"}},
        {"software": [{"library": "opacus", "version": "1.6.0"}], "training": {"poisson_sampling": False}},
        {"opacus": "1.6.0", "poisson_sampling": False},
        {"opacus_version": "1.6.0", "poisson_sampling": False},
        {"opacus": {"version": "1.6.0", "poisson_sampling": False}},
        {"opacus": {"versions": {"opacus": "1.6.0", "torch": "2.13.0"}, "poisson_sampling": False}},
    ],
)
def test_forms_of_evidence(evidence: dict[str, Any]) -> None:
    """Goal: the forms in which a run states its library are all read. Method: one fact in each form."""
    one = advisory("opacus-shuffled-as-poisson")
    run = {**run_of(one), "settled": {"evidence": evidence}}
    how = found(one, run)
    assert how is not None
    assert how.is_certain
    assert recorded(run, known=LIBRARIES).libraries["opacus"] == {"1.6.0"}


def test_evidence_is_read_up_to_a_bound() -> None:
    """Goal: evidence of any size and depth is read in bounded time, and what is beyond the bound clears nothing.
    Method: a value behind more members, and more levels, than are read."""
    one = advisory("opacus-shuffled-as-poisson")
    many = {f"member{index}": index for index in range(2 * MEMBERS_MAX)}
    deep: dict[str, Any] = {"poisson_sampling": True}
    for _ in range(1_000):
        deep = {"deeper": deep}
    for beyond in ({**many, "poisson_sampling": True}, deep, {"lists": [[[[[[[{"poisson_sampling": True}]]]]]]]}):
        run = {**run_of(one), "settled": {"evidence": {"libraries": {"opacus": "1.6.0"}, "rest": beyond}}}
        how = found(one, run)
        assert how is not None
        assert how.unrecorded == ("poisson_sampling",)
    nothing: tuple[Any, ...] = (
        None,
        [],
        {"libraries": None},
        {"libraries": []},
        {"purpose": "compared with opacus 1.6.0"},
    )
    for evidence in nothing:
        run = {**run_of(one), "settled": {"evidence": evidence}}
        assert not recorded(run, known=LIBRARIES).libraries


def test_versions() -> None:
    """Goal: versions compare by the numbers of their release. Method: pairs on both sides of each operator."""
    for text, numbers in (
        ("1.6", (1, 6)),
        ("1.6.0rc1", (1, 6)),
        ("v2.13.0+cu126", (2, 13)),
        ("1!2.0.3.post1", (2, 0, 3)),
    ):
        assert release(text) == numbers
    assert release("unknown") is release("") is release("1" * 100) is None
    for specifier, inside, outside in (
        ("*", "0.1", None),
        ("==1.6", "1.6.0", "1.6.1"),
        ("!=1.6", "1.10", "1.6"),
        (">=1.6,<2", "1.10", "2.0.0"),
        ("<=1.6", "1.6.0", "1.6.1"),
        (">1.6", "1.6.1", "1.6.0"),
    ):
        assert satisfies(release(inside) or (), specifier)
        assert outside is None or not satisfies(release(outside) or (), specifier)
    with pytest.raises(ValueError, match="no clause"):
        satisfies((1,), "~=1.6")


def test_an_unknown_id_names_the_nearest() -> None:
    """Goal: a slip in an id is answered by the id that was probably meant."""
    with pytest.raises(InvalidRequest, match="Did you mean opacus-private-divisor"):
        advisory("opacus-private-divisors")
