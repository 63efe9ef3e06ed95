"""The client and the OpenAPI document: what one sends the other has, and what the client reads the document promises.

The client shares no model with the server. So its methods are called with every argument they have, against a server
made of the document alone: requests are held to the document's operations, member by member, and each answer has
exactly the members that the document names.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from pydantic import SecretStr

from ledger import client as client_package
from ledger.api.app import create_app
from ledger.client import BatchRefused, BudgetExceeded, Gaussian, Ledger, LedgerError, Overrun
from ledger.settings import Settings

Document = dict[str, Any]

NOT_CALLED: Final = {
    "GET /healthz": "asked by what runs the server, never by a job or a person",
    "GET /readyz": "the same",
    "GET /metrics": "scraped by Prometheus",
}
"""Operations that no method calls, and why."""

VALUES: Final[Mapping[str, Any]] = {
    "str": "a",
    "int": 1,
    "bool": True,
    "Number": 0.5,
    "Sequence[str]": ["a"],
    "Sequence[Number]": [0.5],
    "Sequence[Mapping[str, Any]]": [{"name": "a"}],
    "Sequence[str | Mapping[str, Any]]": ["a"],
    "Sequence[Model]": [{"name": "a"}],
    "Mapping[str, Any]": {"a": 1},
    "Mapping[str, str]": {"a": "b"},
    "Mapping[str, Label]": {"a": "b"},
    "AnyMechanism": Gaussian(noise_multiplier=5),
    "str | timedelta": timedelta(hours=1),
    "str | datetime": datetime(2026, 1, 1, tzinfo=UTC),
}
"""An argument of every type that the client's methods take."""

EXCLUSIVE: Final = {"report": [{"project"}, {"dataset"}, {"dataset", "project"}]}
"""Arguments that cannot go together: what is left out in each of several calls."""


@functools.cache
def served() -> Document:
    """The document as the server has it. Nothing changes it: see `changed`."""
    return create_app(Settings(database_url=SecretStr("sqlite:///unused.db"))).openapi()


# --- the document ----------------------------------------------------------------------------------------------------


def operations(document: Document) -> dict[str, dict[str, Any]]:
    """Every operation, as `GET /v1/runs`."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def resolved(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema behind its reference, and without the null beside it."""
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            return resolved(document, option)
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    return schema


def members(document: Document, operation: dict[str, Any]) -> set[str]:
    """The members of a request: in its query, its headers and its body."""
    parameters = {f"{parameter['in']} {parameter['name'].lower()}" for parameter in operation.get("parameters", ())}
    content = operation.get("requestBody", {}).get("content", {})
    body = resolved(document, content["application/json"]["schema"]) if content else {}
    in_body = {f"body {name}" for name in body.get("properties", ())}
    return {name for name in parameters if not name.startswith("path ")} | in_body


def example(document: Document, schema: dict[str, Any]) -> Any:
    """A value with every member that a schema names, those that may be left out included."""
    schema = resolved(document, schema)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "array":
            return [example(document, schema["items"])]
        case "object" | None if isinstance(schema.get("additionalProperties"), dict):
            return {"a": example(document, schema["additionalProperties"])}
        case "object" | None:
            return {name: example(document, member) for name, member in schema.get("properties", {}).items()}
        case kind:
            return {"string": "a", "integer": 1, "number": 0.5, "boolean": True}[kind]


def named(document: Document, schema: str) -> Any:
    """The example of a schema by its name."""
    return example(document, {"$ref": f"#/components/schemas/{schema}"})


# --- the client, against a server made of it -------------------------------------------------------------------------


@dataclass
class FromDocument:
    """A server that knows the document alone, and keeps what it was sent: members by operation."""

    document: Document
    sent: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = self.operation_of(request)
        self.sent[name] |= self.members_of(request)
        operation = operations(self.document)[name]
        status = min(operation["responses"])
        content = operation["responses"][status].get("content", {})
        if "schema" not in content.get("application/json", {}):
            return httpx.Response(int(status))
        answer = example(self.document, content["application/json"]["schema"])
        if "cursor" in request.url.params:
            answer["next"] = None
        return httpx.Response(int(status), json=answer)

    def operation_of(self, request: httpx.Request) -> str:
        """The operation that a request is for, the one with the longest fixed path before others."""
        for name in sorted(operations(self.document), key=lambda name: name.count("{")):
            method, path = name.split()
            if method == request.method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), request.url.path):
                return name
        raise AssertionError(f"{request.method} {request.url.path} is no operation of the document")

    def members_of(self, request: httpx.Request) -> set[str]:
        of_http = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}
        headers = set(request.headers) - of_http - {"authorization"}
        body = httpx.Response(200, content=request.content).json() if request.content else {}
        parts = {"header": headers, "query": request.url.params, "body": body}
        return {f"{part} {name}" for part, names in parts.items() for name in names}


def connected(handler: Callable[[httpx.Request], httpx.Response]) -> Ledger:
    """A client of what answers by `handler`."""
    return Ledger("http://127.0.0.1", "pbl_a", transport=httpx.MockTransport(handler), retries=0)


def methods() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods that make one call each. `run` and `resume` make several, those of `ask`, `start`
    and `settle`, `sweep` that of `ask_batch`, and `settle_pending` those of files."""
    for name, method in inspect.getmembers(Ledger, inspect.isfunction):
        if not name.startswith("_") and name not in ("run", "resume", "sweep", "settle_pending", "close"):
            yield name, method


def arguments(method: Callable[..., Any]) -> dict[str, Any]:
    """A value for every argument; for a mapping of changes, the members that the documentation names."""
    values: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(method).parameters.items())[1:]:
        match parameter.annotation.removesuffix(" | None"):
            case "BinaryFile":
                values[name] = io.BytesIO()
            case _ if name == "changes":
                values[name] = dict.fromkeys(re.findall(r"`(\w+)`", method.__doc__ or ""), 1)
            case annotation:
                values[name] = VALUES[annotation]
    return values


def sent_by_client(document: Document) -> dict[str, set[str]]:
    """The members of the requests that all methods make with all their arguments, by operation."""
    server = FromDocument(document)
    with connected(server) as client:
        for name, method in methods():
            for left_out in EXCLUSIVE.get(name, [set()]):
                given = {key: value for key, value in arguments(method).items() if key not in left_out}
                answer = method(client, **given)
                if isinstance(answer, Iterator):
                    assert list(answer), f"{name} lists nothing"
    return dict(server.sent)


def differences(document: Document) -> list[str]:
    """Where requests of the client and operations of the document differ."""
    sent, lines = sent_by_client(document), []
    for name, operation in operations(document).items():
        if name in NOT_CALLED:
            continue
        if name not in sent:
            lines.append(f"no method calls {name}")
            continue
        documented = members(document, operation)
        lines += [f"no argument sends {member} of {name}" for member in sorted(documented - sent[name])]
        lines += [f"{name} does not take {member}" for member in sorted(sent[name] - documented)]
    return lines


def mechanism_differences(document: Document) -> list[str]:
    """Where the client's classes of mechanisms and the document's differ."""
    tags = document["components"]["schemas"]["RunRequest"]["properties"]["mechanism"]["discriminator"]["mapping"]
    documented = {tag: set(resolved(document, {"$ref": ref})["properties"]) for tag, ref in tags.items()}
    exported = (getattr(client_package, name) for name in client_package.__all__)
    kinds = [kind for kind in exported if isinstance(getattr(kind, "type", None), str)]
    declared = {kind.type: {"type", *(item.name for item in fields(kind))} for kind in kinds}
    return [
        f"{tag}: {sorted(documented.get(tag, set()) ^ declared.get(tag, set()))}"
        for tag in sorted(documented.keys() | declared.keys())
        if documented.get(tag) != declared.get(tag)
    ]


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_every_member_of_every_request_can_be_sent() -> None:
    """Goal: what the API takes, the client can send, and nothing else. Method: every operation of the document, against
    the requests of every method with every argument."""
    assert differences(served()) == []
    assert set(NOT_CALLED) <= set(operations(served()))


def test_run_takes_what_ask_takes() -> None:
    """Goal: whatever can be asked for can be asked for around a training job too."""
    ask, run = (inspect.signature(method).parameters for method in (Ledger.ask, Ledger.run))
    of_run_alone = ("steps_done", "restarts", "allow_overrun", "phases", "processes", "dry_run")
    assert dict(ask) == {name: parameter for name, parameter in run.items() if name not in of_run_alone}


def test_mechanisms_have_the_fields_of_the_document() -> None:
    """Goal: there is a class for every mechanism, with its fields. Method: the mapping of types in the document."""
    assert mechanism_differences(served()) == []


def changed(change: Callable[[Document], object]) -> Document:
    """The server's document with a change."""
    document = copy.deepcopy(served())
    change(document)
    return document


def add_member(schema: str) -> Document:
    """The server's document with a member more in a schema."""
    return changed(
        lambda document: document["components"]["schemas"][schema]["properties"].update(new={"type": "string"})
    )


def test_a_field_that_only_the_server_has_is_noticed() -> None:
    """Goal: these tests fail when the server gets ahead of the client. Method: documents with one thing more."""
    parameter = {"in": "query", "name": "new", "schema": {"type": "string"}}
    filtered = changed(lambda document: document["paths"]["/v1/runs"]["get"]["parameters"].append(parameter))
    called = changed(lambda document: document["paths"].update({"/v1/new": {"get": {"responses": {}}}}))
    assert differences(add_member("RunRequest")) == ["no argument sends body new of POST /v1/runs"]
    assert differences(add_member("SettleRequest")) == ["no argument sends body new of POST /v1/runs/{id}/settle"]
    assert differences(add_member("NewAlerting")) == ["no argument sends body new of PUT /v1/alerting"]
    assert differences(filtered) == ["no argument sends query new of GET /v1/runs"]
    assert differences(called) == ["no method calls GET /v1/new"]
    assert mechanism_differences(add_member("Gaussian")) == ["gaussian: ['new']"]


# --- what is read ----------------------------------------------------------------------------------------------------


def test_what_a_run_reads_is_in_the_document() -> None:
    """Goal: the life of a run needs nothing that the document does not name. Method: answers made of it."""
    started, settled = (named(served(), schema) for schema in ("RunStarted", "RunMoved"))
    with connected(FromDocument(served())) as client:
        with client.run(datasets=["a"], mechanism=Gaussian(noise_multiplier=5)) as run:
            run.step()
        assert run.settled == settled
        assert (run.id, run.cost, run.receipt) == (started["id"], started["cost"], started["receipt"])
        assert run.remaining == {item["name"]: item["remaining"] for item in started["datasets"]}
        assert {"id", "cost", "receipt", "datasets"} <= started.keys()


def test_a_run_that_is_gone_on_with_reads_what_is_in_the_document() -> None:
    """Goal: the same of one that is found again under its key, and goes beyond its plan."""
    server = FromDocument(served())

    def replaying(request: httpx.Request) -> httpx.Response:
        answer = server(request)
        if request.url.path == "/v1/runs":
            answer.headers["Idempotent-Replayed"] = "true"
        return answer

    with connected(replaying) as client:
        mechanism = Gaussian(noise_multiplier=5)
        with client.run(datasets=["a"], mechanism=mechanism, steps_done=1, allow_overrun=True) as run:
            run.step()
        assert run.settled is not None
        assert run.settled["overrun"]["steps"] == 1
    assert "GET /v1/runs/{id}" in server.sent


PROBLEMS: Final[dict[type[LedgerError], tuple[str, str]]] = {
    BudgetExceeded: ("POST /v1/runs", "RunRefused"),
    Overrun: ("POST /v1/runs/{id}/settle", "RunOverran"),
    BatchRefused: ("POST /v1/runs/batch", "BatchWasRefused"),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_what_an_error_reads_is_in_the_document(kind: type[LedgerError]) -> None:
    """Goal: an error's code is documented where it is met, and each of its attributes is a member of the problem there.
    Method: a problem made of the document."""
    operation, schema = PROBLEMS[kind]
    refused = operations(served())[operation]["responses"]["409"]
    assert f"`{kind.code}`" in refused["description"]
    assert schema in str(refused["content"]["application/problem+json"]["schema"])
    problem = {**named(served(), schema), "code": kind.code}
    with (
        connected(lambda _: httpx.Response(409, json=problem)) as client,
        pytest.raises(kind) as caught,
    ):
        client.me()
    attributes = [name for name, value in inspect.getmembers(kind) if isinstance(value, property)]
    assert attributes
    for name in attributes:
        assert problem[name] == getattr(caught.value, name), name


@pytest.mark.parametrize(
    ("kind", "part"), [(BudgetExceeded, "the fair-use share of a, partition a"), (Overrun, "1 steps were beyond")]
)
def test_what_an_error_says_is_made_of_what_is_in_the_document(kind: type[LedgerError], part: str) -> None:
    """Goal: the messages for people find every member that they are made of; otherwise they fall back to `detail`."""
    problem = {**named(served(), PROBLEMS[kind][1]), "code": kind.code}
    with connected(lambda _: httpx.Response(409, json=problem)) as client, pytest.raises(kind) as caught:
        client.me()
    assert part in str(caught.value)
