"""The OpenAPI document and the running application say the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from ledger.api.problems import STATUS
from ledger.api.schemas import common, problems
from ledger.service.shapes import accountant, alerts, datasets, journals, overview, past, runs, tenants
from ledger.service.shapes import common as shared
from tests.conftest import Templates
from tests.kit.accountant import DPSGD
from tests.kit.driver import MNIST, RELEASE, Ledger

CALLS = {
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/.well-known/jwks.json"),
    ("post", "/v1/tenants"),
    ("get", "/v1/me"),
    ("get", "/v1/keys"),
    ("post", "/v1/keys"),
    ("delete", "/v1/keys/{id}"),
    ("post", "/v1/keys/{id}/rotate"),
    ("get", "/v1/policy"),
    ("put", "/v1/policy"),
    ("get", "/v1/proposals"),
    ("get", "/v1/proposals/{id}"),
    ("post", "/v1/proposals/{id}/approve"),
    ("post", "/v1/proposals/{id}/refuse"),
    ("get", "/v1/alerts"),
    ("get", "/v1/alerting"),
    ("put", "/v1/alerting"),
    ("post", "/v1/alerting/test"),
    ("get", "/v1/datasets/{name}/forecast"),
    ("get", "/v1/forecasts"),
    ("get", "/v1/entries"),
    ("get", "/v1/head"),
    ("get", "/v1/proof"),
    ("get", "/v1/consistency"),
    ("get", "/v1/export"),
    ("get", "/v1/datasets"),
    ("post", "/v1/datasets"),
    ("get", "/v1/datasets/{name}"),
    ("patch", "/v1/datasets/{name}"),
    ("put", "/v1/datasets/{name}/budget"),
    ("get", "/v1/datasets/{name}/entries"),
    ("get", "/v1/datasets/{name}/history"),
    ("get", "/v1/datasets/{name}/balance"),
    ("get", "/v1/datasets/{name}/spending"),
    ("get", "/v1/datasets/{name}/burndown"),
    ("get", "/v1/overview"),
    ("put", "/v1/datasets/{name}/fair-use"),
    ("get", "/v1/datasets/{name}/partitions"),
    ("post", "/v1/datasets/{name}/partitions"),
    ("post", "/v1/datasets/{name}/past-runs"),
    ("put", "/v1/datasets/{name}/projects/{project}"),
    ("post", "/v1/runs/batch"),
    ("get", "/v1/datasets/{name}/export"),
    ("get", "/v1/datasets/{name}/head"),
    ("get", "/v1/datasets/{name}/proof"),
    ("get", "/v1/datasets/{name}/consistency"),
    ("get", "/v1/datasets/{name}/report"),
    ("get", "/v1/projects/{project}/report"),
    ("get", "/v1/report"),
    ("get", "/v1/runs"),
    ("post", "/v1/runs"),
    ("get", "/v1/runs/{id}"),
    ("get", "/v1/runs/{id}/receipt"),
    ("get", "/v1/runs/{id}/attestation"),
    ("post", "/v1/runs/{id}/start"),
    ("post", "/v1/runs/{id}/settle"),
    ("put", "/v1/runs/{id}/progress"),
    ("post", "/v1/runs/{id}/confirm"),
    ("post", "/v1/runs/{id}/correct"),
    ("post", "/v1/runs/{id}/correction"),
    ("post", "/v1/runs/{id}/void"),
    ("post", "/v1/evaluate"),
    ("post", "/v1/plan"),
    ("post", "/v1/plan/runs"),
}
"""The calls of this version."""

SHAPES: dict[str, type] = {
    name: shape
    for module in (accountant, alerts, common, datasets, journals, overview, past, problems, runs, shared, tenants)
    for name, shape in vars(module).items()
    if is_typeddict(shape)
}
"""The shapes of answers, by the name that the document gives them."""

FILES = {"models": [{"name": "model.safetensors", "sha256": "ab" * 32, "size": 7}]}

OF_CODE = {
    "budget-exceeded": problems.RunRefused,
    "overrun": problems.RunOverran,
    "batch-refused": problems.BatchWasRefused,
}
"""The shapes of problems that have more members than every problem, by their code."""


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone: what a call answers does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


@pytest.fixture
def document(here: Ledger) -> dict[str, Any]:
    """The document, as anyone gets it without a key."""
    answer = here.client.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def calls_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every call of the document: method, path, description."""
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            yield method, path, call


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a piece of JSON."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas one of which holds."""
    found: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return found


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, or the one that it refers to."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
    return schema


# --- the document ----------------------------------------------------------------------------------------------------


def test_document_holds_together(document: dict[str, Any]) -> None:
    """Goal: tools can read the document. Method: version, references, path parameters, operations."""
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    named = document["components"]["schemas"]
    used = {item["$ref"].rpartition("/")[2] for item in walk(document) if isinstance(item.get("$ref"), str)}
    assert used == set(named)
    operations = [call["operationId"] for _, _, call in calls_of(document)]
    assert len(operations) == len(set(operations))
    for method, path, call in calls_of(document):
        inside = {parameter["name"] for parameter in call.get("parameters", ()) if parameter["in"] == "path"}
        assert inside == set(re.findall(r"{(\w+)}", path)), path
        assert call["summary"]
        assert call["description"], path
        assert ("requestBody" in call) <= (method in ("post", "put", "patch"))
    for item in walk(document):
        if "$ref" not in item and set(item) & {"exclusiveMinimum", "minimum", "maximum"}:
            assert item["type"] in ("number", "integer")


def test_every_call_is_listed(document: dict[str, Any]) -> None:
    """Goal: neither more nor less than this version's calls. Method: compare with the list above."""
    assert {(method, path) for method, path, _ in calls_of(document)} == CALLS


def test_security(document: dict[str, Any]) -> None:
    """Goal: a client knows where a key is needed. Method: the scheme, and who names it: all of /v1, nothing else."""
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for _, path, call in calls_of(document):
        assert call.get("security", []) == ([{name: []}] if path.startswith("/v1/") else []), path


def test_errors_are_declared_as_problems(document: dict[str, Any]) -> None:
    """Goal: a generated client reads errors as what they are. Method: media type and schema of every error answer."""
    for _, path, call in calls_of(document):
        errors = {status: answer for status, answer in call["responses"].items() if not status.startswith("2")}
        assert "default" in errors, path
        for answer in errors.values():
            ((media_type, content),) = answer["content"].items()
            assert media_type == "application/problem+json"
            for one in alternatives(content["schema"]):
                assert {"type", "title", "status", "code", "detail"} <= set(resolved(document, one)["required"])
        assert "422" not in errors


def test_every_code_is_of_some_call(document: dict[str, Any]) -> None:
    """Goal: the codes of the calls are those of the ledger. Method: all of them together, but for the two that a
    request gets for which there is no call."""
    codes = {code for _, _, call in calls_of(document) for code in call["x-codes"]}
    assert codes == set(STATUS) - {"method-not-allowed"}


# --- examples --------------------------------------------------------------------------------------------------------


def examples_of(document: dict[str, Any], call: dict[str, Any]) -> list[Any]:
    """Every example of a call's body."""
    content = call["requestBody"]["content"]["application/json"]
    found = [example["value"] for example in content.get("examples", {}).values()]
    for one in alternatives(content["schema"]):
        schema = resolved(document, one)
        found += [*([schema["example"]] if "example" in schema else []), *schema.get("examples", [])]
    return found


RAISES = itertools.count(9)
"""Budgets, each above the one before."""


def subject_of(ledger: Ledger, path: str, count: int) -> str:
    """The id of something that a call under this path can be made for: a run, a key, or what another one proposed."""
    if "/keys/" in path:
        return str(ledger.post("/v1/keys", {"name": "k", "role": "auditor"}).json()["id"])
    if "/proposals/" in path:
        policy = {"second_steward": True, "reason": "r"}
        assert ledger.put("/v1/policy", policy).is_success
        raised = ledger.as_("steward").put(
            "/v1/datasets/parted/budget",
            {"budget": {"mu": next(RAISES)}, "reason": "r", "accepts_weak_protection": True},
        )
        assert ledger.put("/v1/policy", {**policy, "second_steward": False}).is_success
        return str(raised.json()["proposal"]["id"])
    run = str(ledger.ask(key=f"{path} {count}".replace(" ", "-")).json()["id"])
    if path.endswith(("/confirm", "/correct")):
        ledger.register(name=f"overrun-{count}")
        run = str(ledger.ask(key=f"overrun-{count}", datasets=[f"overrun-{count}"]).json()["id"])
    if path.endswith(("/settle", "/progress", "/confirm", "/correct", "/correction")):
        ledger.post(f"/v1/runs/{run}/start")
    if path.endswith(("/confirm", "/correct")):
        ledger.post(f"/v1/runs/{run}/settle", {"steps": 10**9})
    if path.endswith("/correction"):
        ledger.post(f"/v1/runs/{run}/settle")
    return run


def test_every_example_is_accepted(here: Ledger, document: dict[str, Any]) -> None:
    """Goal: what the documentation shows can be sent as it stands. Method: send each example of each body."""
    sent: set[tuple[str, str, str]] = set()
    operator = here.with_key(here.operator_key)
    here.register(name="parted", partitions=[])
    first = ("post /v1/tenants", "post /v1/datasets", "put /v1/datasets", "post /v1/runs", "put /v1/runs")
    order = (*first, "post", "patch", "put")
    bodies = [(method, path, call) for method, path, call in calls_of(document) if "requestBody" in call]
    rank = {(m, p): next(i for i, start in enumerate(order) if f"{m} {p}".startswith(start)) for m, p, _ in bodies}
    for method, path, call in sorted(bodies, key=lambda item: rank[item[0], item[1]]):
        examples = examples_of(document, call)
        assert examples, f"{method} {path} shows no example"
        for example in examples:
            name = "parted" if path.endswith(("/partitions", "/fair-use")) else "mnist"
            of_id = subject_of(here, path, len(sent)) if "{id}" in path else ""
            target = path.replace("{name}", name).replace("{id}", of_id).replace("{project}", "ranking")
            caller = operator if path == "/v1/tenants" else here
            # The tenant of the example is this test's own.
            body = {"name": f"{example['name']} again"} if path == "/v1/tenants" else example
            headers = {"Idempotency-Key": f"example-{len(sent)}"}
            answer = caller.request(method.upper(), target, json=body, headers=headers)
            assert answer.is_success, (method, path, answer.text)
            sent.add((method, path, str(example)))
    assert {(method, path) for method, path, _ in sent} == {(method, path) for method, path, _ in bodies}


# --- answers ---------------------------------------------------------------------------------------------------------


def shapes_of(call: dict[str, Any], status: int) -> list[type]:
    """The shapes that the document declares for an answer, in its order."""
    declared = call["responses"].get(str(status), call["responses"]["default"])
    ((_, content),) = declared["content"].items()
    return [SHAPES[one["$ref"].rpartition("/")[2]] for one in alternatives(content["schema"])]


def as_read(shape: type, content: bytes) -> Any:
    """An answer read through a shape and written again; None if the shape does not take it."""
    adapter: TypeAdapter[Any] = TypeAdapter(shape)
    try:
        answer = adapter.validate_json(content, strict=True)
    except ValidationError:
        return None
    return adapter.dump_python(answer, mode="json", exclude_unset=True, by_alias=True)


class Checked:
    """Sends requests and holds every answer against the shape that the document declares for it."""

    def __init__(self, ledger: Ledger, document: dict[str, Any]) -> None:
        self.ledger, self.document = ledger, document
        self.seen: set[tuple[str, str, int]] = set()

    def __call__(self, method: str, path: str, body: Any = None, *, by: Ledger | None = None, **rest: Any) -> Any:
        called = path.format(**rest)
        headers = {"Idempotency-Key": str(rest["key"])} if "key" in rest else {}
        more = {} if body is None else {"json": body}
        params = rest.get("params")
        answer = (by or self.ledger).request(method.upper(), called, headers=headers, params=params, **more)
        self.seen.add((method, path, answer.status_code))
        call = self.document["paths"][path][method]
        if answer.status_code == 204:
            assert answer.content == b""
            assert "content" not in call["responses"]["204"]
            return None
        declared = call["responses"].get(str(answer.status_code), call["responses"]["default"])["content"]
        media = answer.headers["content-type"].partition(";")[0]
        is_report = path.endswith("/report") and answer.is_success  # in one of four formats, as it was asked for
        assert media in declared if is_report else [media] == list(declared), (method, path)
        if "schema" not in declared[answer.headers["content-type"].partition(";")[0]]:
            return None  # no JSON, so nothing that a shape could describe
        shapes = shapes_of(call, answer.status_code)
        if answer.is_error:
            assert STATUS[answer.json()["code"]] == answer.status_code
            assert answer.json()["code"] in call["x-codes"], (method, path)
            # Any problem could pass for one of no other members than every problem has.
            shape = OF_CODE.get(answer.json()["code"], common.Problem)
            assert shape in shapes, (method, path)
            shapes = [shape]
        # What a shape does not declare would be missing here, and what it reads differently would differ.
        assert answer.json() in [as_read(shape, answer.content) for shape in shapes], (method, path)
        return answer.json()


def test_answers_are_as_declared(here: Ledger, document: dict[str, Any]) -> None:
    """Goal: documentation and answers cannot drift apart.

    Method: make every call succeed, and fail in many ways, and read each answer through its declared shape, strictly:
    no member may be missing, undeclared or of another type.
    """
    send = Checked(here, document)
    send("get", "/healthz")
    send("get", "/readyz")
    send("get", "/metrics")
    operator = here.with_key(here.operator_key)
    for caller in (here, operator, here.with_key("pbl_x")):
        send("get", "/v1/me", by=caller)
    send("post", "/v1/tenants", {"name": "globex"}, by=operator)
    send("post", "/v1/tenants", {"name": "globex"}, by=operator)
    for bound, budget in (("clt", {"mu": 1}), ("certified", {"epsilon": 3, "at_delta": 1e-5})):
        send("post", "/v1/datasets", {**MNIST, "name": bound, "bound": bound, "budget": budget})
    send("post", "/v1/datasets", {**MNIST, "name": "clt"})
    release = {**RELEASE, "datasets": ["clt"]}
    full = {**release, "purpose": "p", "labels": {"a": "b"}, "code": {"repository": "r", "commit": "c"}, "delta": 1e-9}
    settled = send("post", "/v1/runs", full, key="a")["id"]
    send("post", "/v1/runs", {**release, "mechanism": {"type": "gaussian", "noise_multiplier": 0.5}}, key="b")
    send("post", "/v1/runs", release)
    send("post", "/v1/runs/{id}/settle", {}, id=settled)
    send("post", "/v1/runs/{id}/start", {"token": "mine"}, id=settled)
    send("post", "/v1/runs/{id}/start", {"token": "another"}, id=settled)
    send("get", "/v1/runs/{id}", id=settled)
    send("put", "/v1/runs/{id}/progress", {"steps": 1, "reporter": "node-1"}, id=settled)
    send(
        "post",
        "/v1/runs/{id}/settle",
        {"steps": 1, "evidence": {"log": ["x", {"y": 1.5}]}, **FILES},
        id=settled,
    )
    voided = send("post", "/v1/runs", release, key="c")["id"]
    send("post", "/v1/runs/{id}/void", {"reason": "never started"}, id=voided)
    send("post", "/v1/runs/{id}/void", {"reason": "another"}, id=voided)
    by_epochs = {
        **release,
        "size_differs": "a part of it",
        "mechanism": {
            "type": "dpsgd",
            "noise_multiplier": 9,
            "sampling": "poisson",
            "dataset_size": 1000,
            "batch_size": 7,
            "epochs": 1,
        },
    }
    stepped = send("post", "/v1/runs", by_epochs, key="d")["id"]
    send("post", "/v1/runs/{id}/start", id=stepped)
    send("get", "/v1/runs/{id}/receipt", id=stepped)
    send("post", "/v1/runs/{id}/settle", id=stepped)
    for run in (settled, voided, stepped):
        send("get", "/v1/runs/{id}", id=run)
        send("get", "/v1/runs/{id}/receipt", id=run)
        send("get", "/v1/runs/{id}/attestation", id=run)
    send("get", "/.well-known/jwks.json")
    send("get", "/v1/runs/{id}", id="00000000-0000-0000-0000-000000000000")
    send("get", "/v1/runs")
    send("put", "/v1/datasets/{name}/budget", {"budget": {"mu": 2, "delta": 0.001}, "reason": "more"}, name="clt")
    send("put", "/v1/datasets/{name}/budget", {"budget": {"mu": 0.001}, "reason": "less"}, name="clt")
    send("patch", "/v1/datasets/{name}", {"state": "frozen", "reason": "review"}, name="clt")
    send("patch", "/v1/datasets/{name}", {"state": "frozen"}, name="clt")
    send("post", "/v1/runs", release, key="e")
    send("get", "/v1/datasets/{name}/history", name="clt")
    send("get", "/v1/datasets/{name}/spending", name="clt", params={"by": "person"})
    send("get", "/v1/datasets/{name}/burndown", name="clt", params={"by": "week"})
    send("get", "/v1/overview", params={"limit": 1})
    for rest in ("", "/entries", "/head", "/export", "/report"):
        send("get", f"/v1/datasets/{{name}}{rest}", name="clt")
        send("get", f"/v1/datasets/{{name}}{rest}", name="nothing")
    for name in ("clt", "nothing"):
        for number in (1, 99, "x"):
            send("get", "/v1/datasets/{name}/proof", name=name, params={"seq": number})
            send("get", "/v1/datasets/{name}/consistency", name=name, params={"from": number})
    send_parts(send)
    send_proposals(send)
    send_alerts(send)
    send("get", "/v1/datasets")
    limited = {"name": "k", "role": "auditor", "datasets": ["clt"], "expires_at": "2100-01-01T00:00:00+02:00"}
    key = send("post", "/v1/keys", limited)["id"]
    send("get", "/v1/keys")
    send("post", "/v1/keys/{id}/rotate", id=key)
    send("delete", "/v1/keys/{id}", id=key)
    send("post", "/v1/keys/{id}/rotate", {"overlap": "PT1H"}, id=key)
    send("delete", "/v1/keys/{id}", id="00000000-0000-0000-0000-000000000000")
    send("post", "/v1/keys", {**limited, "datasets": ["nothing"]})
    tiny = {"type": "gaussian", "noise_multiplier": 1e-9}
    certified = {"datasets": ["certified"], "mechanism": DPSGD}
    run = send("post", "/v1/runs", certified, key="f")["id"]
    send("get", "/v1/runs/{id}", id=run)
    refused = send("post", "/v1/runs", {**certified, "delta": 0.01}, key="g")["run"]
    send("get", "/v1/runs/{id}", id=refused)
    for mechanism in (RELEASE["mechanism"], DPSGD, tiny, {"type": "zcdp", "rho": 1}):
        send("post", "/v1/evaluate", {"mechanism": mechanism})
        send("post", "/v1/plan", {**RELEASE, "datasets": ["clt"], "mechanism": mechanism})
    for solve_for in ("noise_multiplier", "count", "runs", "steps", "nothing"):
        asked = {"type": "gaussian", "noise_multiplier": 0.5, "count": 3}
        send("post", "/v1/plan", {"datasets": ["clt"], "mechanism": asked, "solve_for": solve_for})
    assert {(method, path) for method, path, status in send.seen if status < 300} == CALLS
    assert {status for _, _, status in send.seen} == {200, 201, 202, 204, 400, 401, 403, 404, 409, 422, 429}


def send_proposals(send: Checked) -> None:
    """The calls about what takes two people, and the tenant's own journal."""
    send("post", "/v1/datasets", {**MNIST, "name": "guarded"})
    send("put", "/v1/policy", {"second_steward": True, "reason": "r"})
    send("put", "/v1/policy", {"second_steward": True})
    send("get", "/v1/policy")
    second = send.ledger.as_("steward")
    higher = {"budget": {"mu": 2}, "reason": "r"}
    raised = [send("put", "/v1/datasets/{name}/budget", higher, name="guarded")["proposal"]["id"] for _ in range(2)]
    run = send("post", "/v1/runs", {**RELEASE, "datasets": ["guarded"]}, key="guarded")["id"]
    send("post", "/v1/runs/{id}/start", id=run)
    void = send("post", "/v1/runs/{id}/void", {"reason": "r"}, id=run)["proposal"]["id"]
    send("post", "/v1/proposals/{id}/approve", id=void)
    for proposal in (raised[0], void):
        send("get", "/v1/proposals/{id}", id=proposal)
        send("post", "/v1/proposals/{id}/approve", id=proposal, by=second)
        send("post", "/v1/proposals/{id}/approve", id=proposal, by=second)
    send("post", "/v1/proposals/{id}/refuse", {"reason": "r"}, id=raised[1], by=second)
    send("get", "/v1/proposals")
    over = send("post", "/v1/runs", {**RELEASE, "datasets": ["guarded"]}, key="over")["id"]
    send("post", "/v1/runs/{id}/start", id=over)
    send("post", "/v1/runs/{id}/confirm", {"reason": "r"}, id=over)
    send("post", "/v1/runs/{id}/settle", {"steps": 1000}, id=over)
    slip = {"steps": 900, "reason": "r"}
    fixed = send("post", "/v1/runs/{id}/correct", slip, id=over)["proposal"]["id"]
    send("post", "/v1/runs/{id}/correct", slip, id=over, by=second)
    send("post", "/v1/proposals/{id}/approve", id=fixed, by=second)
    send("get", "/v1/runs/{id}", id=over)
    send("put", "/v1/datasets/{name}/projects/{project}", {"budget": {"mu": 9}}, name="guarded", project="p")
    send("put", "/v1/datasets/{name}/fair-use", {"runs_per_hour": 9, "reason": "r"}, name="guarded")
    send("put", "/v1/datasets/{name}/fair-use", {"reason": "r"}, name="guarded")
    thaw = send("patch", "/v1/datasets/{name}", {"state": "active", "reason": "r"}, name="guarded")["proposal"]["id"]
    send("post", "/v1/proposals/{id}/approve", id=thaw, by=second)
    send("put", "/v1/policy", {"second_steward": False, "reason": "r"})
    send("post", "/v1/datasets", {**MNIST, "name": "confirmed"})
    confirmed = send("post", "/v1/runs", {**RELEASE, "datasets": ["confirmed"]}, key="confirmed")["id"]
    send("post", "/v1/runs/{id}/start", id=confirmed)
    send("post", "/v1/runs/{id}/settle", {"steps": 1000}, id=confirmed)
    send("post", "/v1/runs/{id}/confirm", {"reason": "r"}, id=confirmed)
    what = {"mechanism": {"type": "gaussian", "noise_multiplier": 30}, "decided_by_output": False, "reason": "r"}
    send("post", "/v1/runs/{id}/correction", what, id=confirmed)
    lower = {**what, "on_word_of": "the team", "evidence": {"log": 1}, "advisory": "a"}
    lowered = send("post", "/v1/runs/{id}/correction", lower, id=confirmed)["proposal"]["id"]
    send("post", "/v1/proposals/{id}/approve", id=lowered, by=second)
    send("get", "/v1/runs/{id}", id=confirmed)
    before = {"runs": [{"mechanism": what["mechanism"], "ran_at": "2025-01-01"}], "reason": "r", "idempotency_key": "p"}
    send("post", "/v1/datasets/{name}/past-runs", {**before, "preview": True}, name="confirmed")
    entered = send("post", "/v1/datasets/{name}/past-runs", before, name="confirmed")["runs"][0]["id"]
    send("post", "/v1/datasets/{name}/past-runs", {**before, "runs": [{"mechanism": {}}]}, name="confirmed")
    send("get", "/v1/runs/{id}", id=entered)
    for path in ("/v1/entries", "/v1/head", "/v1/export"):
        send("get", path)
    for number in (1, 10_000):
        send("get", "/v1/proof", params={"seq": number})
        send("get", "/v1/consistency", params={"from": number})


def send_alerts(send: Checked) -> None:
    """The calls about alerts, of which the calls before have raised some."""
    for name in ("clt", "parted", "derived", "nothing"):
        send("get", "/v1/datasets/{name}/forecast", name=name)
    send("get", "/v1/forecasts")
    send("get", "/v1/alerting")
    send("put", "/v1/alerting", {"thresholds": [50, 75], "refusals_in_a_row": None, "forecast_days": 9, "reason": "r"})
    send("put", "/v1/alerting", {"webhook": "https://hooks.example.org/x", "reason": "r"})
    send("put", "/v1/alerting", {"thresholds": [75, 50], "reason": "r"})
    send("post", "/v1/alerting/test")
    kinds = {item["kind"] for item in send("get", "/v1/alerts")["items"]}
    assert kinds >= {"threshold", "overrun", "frozen", "test"}


def send_parts(send: Checked) -> None:
    """The calls about parts of a budget: partitions, derived datasets, projects, fair use, batches, overruns."""
    parted = {**MNIST, "name": "parted", "partitions": ["a"], "ceiling": {"mu": 2}}
    send("post", "/v1/datasets", parted)
    send("post", "/v1/datasets", {**parted, "name": "above", "ceiling": {"mu": 0.5}})
    derived = {"name": "derived", "derived_from": [{"name": "parted", "unit_preserving": True}]}
    send("post", "/v1/datasets", derived)
    send("post", "/v1/datasets", {**derived, "name": "odd", "adjacency": "replace_one"})
    for name in ("parted", "clt"):
        send("post", "/v1/datasets/{name}/partitions", {"names": ["b", "c"], "disjoint": True}, name=name)
        send("get", "/v1/datasets/{name}/partitions", name=name)
    send("post", "/v1/datasets/{name}/partitions", {"names": ["b"], "disjoint": True}, name="parted")
    run: dict[str, Any] = {**RELEASE, "datasets": ["derived"], "project": "p"}
    for mu in (0.5, 0.1):
        send(
            "put",
            "/v1/datasets/{name}/projects/{project}",
            {"budget": {"mu": mu}},
            name="parted",
            project="p",
        )
        send("post", "/v1/runs", run, key=f"of-p-{mu}")
    send("post", "/v1/runs", {**run, "project": "q"}, key="of-q")
    send("post", "/v1/runs", {**run, "datasets": [{"name": "parted", "partitions": ["z"]}]}, key="of-z")
    send("put", "/v1/datasets/{name}/fair-use", {"held": {"mu": 0.9}, "reason": "r"}, name="parted")
    counted = {"type": "gaussian", "noise_multiplier": 9, "count": 10}
    segmented = {"datasets": ["derived"], "mechanism": counted, "segments": 3}
    first = send("post", "/v1/runs", segmented, key="segmented")["id"]
    send("post", "/v1/plan", {**segmented, "solve_for": "runs"})
    big = {"type": "gaussian", "noise_multiplier": 1, "count": 2}
    refused = send("post", "/v1/runs", {"datasets": ["derived"], "mechanism": big, "segments": 2}, key="too-much")
    assert {"principal" in item for item in refused["datasets"]} == {True, False}
    send("post", "/v1/runs/{id}/start", id=first)
    send("get", "/v1/runs/{id}", id=refused["run"])
    send("post", "/v1/runs/{id}/settle", {"steps": 5}, id=first)
    items = [{**RELEASE, "datasets": ["parted"], "idempotency_key": f"item-{number}"} for number in range(4)]
    wrong = [{"idempotency_key": "no run"}, {**RELEASE, "idempotency_key": "no-mnist"}]
    large = {"datasets": ["derived"], "mechanism": big, "idempotency_key": "large"}
    overruns = send("post", "/v1/runs/batch", {"runs": [*items[:2], large, *wrong]})["results"]
    assert [item["status"] for item in overruns] == [201, 201, 409, 400, 404]
    send("post", "/v1/runs/batch", {"runs": [*items[:3], large], "atomic": True})
    send("post", "/v1/runs/batch", {"runs": [*items[:3], wrong[0]], "atomic": True})
    send("post", "/v1/runs/batch", {"runs": [*items[:3], large], "as_many_as_fit": True})
    for result, steps in zip(overruns[:2], (2, 26), strict=True):
        run_id = result["run"]["id"]
        send("post", "/v1/runs/{id}/start", id=run_id)
        send("post", "/v1/runs/{id}/settle", {"steps": steps}, id=run_id)
        send("get", "/v1/runs/{id}", id=run_id)
    send("post", "/v1/runs", {**RELEASE, "datasets": ["derived"]}, key="frozen")
    send("patch", "/v1/datasets/{name}", {"state": "active", "reason": "seen"}, name="parted")
    send("post", "/v1/plan", {**RELEASE, "datasets": ["derived"]})
    send("post", "/v1/plan/runs", {"runs": [{**RELEASE, "datasets": ["derived"]}, RELEASE]})
    send("put", "/v1/datasets/{name}/fair-use", {"runs_per_hour": 1, "reason": "r"}, name="parted")
    send("post", "/v1/runs", {**RELEASE, "datasets": ["derived"]}, key="too-often")
    for project in ("p", "nothing"):
        send("get", "/v1/projects/{project}/report", project=project)
    send("get", "/v1/report")
    for name in ("parted", "derived"):
        send("get", "/v1/datasets/{name}", name=name)
        send("get", "/v1/datasets/{name}/entries", name=name)
        send("get", "/v1/datasets/{name}/history", name=name)
        send("get", "/v1/datasets/{name}/balance", name=name, params={"seq": 1})
        send("get", "/v1/datasets/{name}/balance", name=name)
        for partition in ("a", "nothing"):
            asked = {"by": "label", "label": "a", "partition": partition}
            send("get", "/v1/datasets/{name}/spending", name=name, params=asked)
    send("get", "/v1/runs")
