"""Schemathesis against a real server: what the OpenAPI document says is true, and bad input is always refused.

All of its checks and phases: the examples, the edges of schemas, random requests good and bad, and chains of calls
along the document's links. A sample in the ordinary run, also of the calls whose
edges are tried; the edges of every call and many more requests under `make prove`.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.settings import Settings
from tests.conftest import Templates
from tests.kit.driver import Ledger, Served, first_keys
from tests.kit.scene import furnished, raised

SEED = 20261125
EXAMPLES = 1
"""Random requests of each call, good and bad; beside them come all examples and the edges of schemas."""
EDGES = 0.45
"""The edges of the schemas of so large a part of all calls, which a seed chooses; of all under `make prove`. They are
nearly all of the requests."""
CHAINS = 30
"""For each of those so many chains of calls along links."""
REQUEST_SECONDS_MAX = 60
EXAMPLES_TO_PROVE = 300
SECONDS_MAX = 280
SECONDS_TO_PROVE_MAX = 3000
PHASES = ("examples", "coverage", "fuzzing", "stateful")
BEYOND_A_SCHEMA = {
    "GET /v1/alerts": "a cursor is one that was given; a dataset is there",
    "GET /v1/datasets": "a cursor is one that was given",
    "GET /v1/datasets/{name}/entries": "a cursor is one that was given",
    "GET /v1/datasets/{name}/partitions": "a cursor is one that was given",
    "GET /v1/datasets/{name}/history": "a cursor is one that was given",
    "GET /v1/datasets/{name}/balance": "a time or an entry is given, which is there",
    "GET /v1/datasets/{name}/spending": "a label is named if and only if it groups; partitions are there",
    "GET /v1/datasets/{name}/burndown": "partitions and projects are there; a period has at most 400 points",
    "GET /v1/overview": "a cursor is one that was given",
    "GET /v1/entries": "a cursor is one that was given",
    "GET /v1/consistency": "entries are those that there are",
    "GET /v1/datasets/{name}/consistency": "entries are those that there are",
    "GET /v1/datasets/{name}/proof": "entries are those that there are",
    "GET /v1/proof": "entries are those that there are",
    "GET /v1/forecasts": "a cursor is one that was given",
    "GET /v1/keys": "a cursor is one that was given",
    "GET /v1/proposals": "a cursor is one that was given",
    "GET /v1/runs": "a cursor is one that was given; a label has a name",
    "GET /v1/runs/{id}": "an id begins no other",
    "GET /v1/datasets/{name}/report": "a period ends after it began; a contact is printable",
    "GET /v1/projects/{project}/report": "a period ends after it began; a contact is printable",
    "GET /v1/report": "a period ends after it began; a contact is printable",
    "PUT /v1/alerting": "thresholds rise; a webhook's host is allowed",
    "POST /v1/keys": "datasets exist; projects limit a requester; a key does not end in the past",
    "POST /v1/keys/{id}/rotate": "a duration is at most 366 days",
    "POST /v1/datasets": "a budget is within its ceiling, and neither too large nor nothing; parents exist",
    "PATCH /v1/datasets/{name}": "a change of state gives its reason",
    "PUT /v1/datasets/{name}/budget": "a budget is neither too large nor nothing, and within the ceiling",
    "POST /v1/datasets/{name}/past-runs": "a mechanism has the fields that go together; a text has no NUL",
    "PUT /v1/datasets/{name}/projects/{project}": "a budget is neither too large nor nothing",
    "PUT /v1/datasets/{name}/fair-use": "a budget is neither too large nor nothing",
    "POST /v1/evaluate": "a number has at most 60 digits; what is composed is not too deep",
    "POST /v1/plan": "datasets share no root; what is solved for is a field of the mechanism",
    "POST /v1/plan/runs": "datasets share no root; a mechanism has the fields that go together",
    "POST /v1/runs": "datasets share no root; a duration is at most 366 days",
    "POST /v1/runs/batch": "a text has no NUL; a key stands once",
    "POST /v1/runs/{id}/settle": "steps are those of a mechanism that has some, written as an integer",
    "POST /v1/runs/{id}/correct": "steps are those of a mechanism that has some; restarts are of steps reached",
    "POST /v1/runs/{id}/correction": "a mechanism has the fields that go together; a text has no NUL",
    "POST /v1/runs/{id}/confirm": "a text has no NUL",
    "POST /v1/runs/{id}/void": "a text has no NUL",
}
"""Calls that may refuse what their schema allows, and why."""
REFUSALS = ["2xx", "401", "403", "404", "409"]
LINKS_MIN = 3


def toml(value: Any) -> str:
    """A value as TOML writes it; strings, numbers and lists are as in JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(value)


def without_edges(document: dict[str, Any], *, examples: int) -> list[str]:
    """The calls whose schemas' edges are left out."""
    calls = sorted(f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods)
    left_out = 0 if examples > EXAMPLES else round((1 - EDGES) * len(calls))
    return random.Random(SEED).sample(calls, left_out)


def configuration(admin: Ledger, operator_key: str, *, examples: int, edgeless: list[str]) -> str:
    """What Schemathesis is told beside the document: keys, some names that exist, and what no schema can say."""
    things = furnished(admin, dataset="clicks")
    admin.register()  # which the examples name
    steward = admin.as_("steward")
    lines = [
        f"request-timeout = {REQUEST_SECONDS_MAX}",
        f"generation = {toml({'max-examples': examples, 'database': 'none'})}",
        f"phases.stateful.generation = {toml({'max-examples': CHAINS * examples})}",
        "[dictionaries]",
        f"names = {toml({'values': ['mnist', things.dataset, 'clicks.parts', 'clicks.copy']})}",
        f"runs = {toml({'values': [things.run]})}",
        f"keys = {toml({'values': [things.key]})}",
        f"proposals = {toml({'values': [raised(steward, 'clicks') for _ in range(20)]})}",
        "[checks]",
        f"max_response_time = {REQUEST_SECONDS_MAX}",  # a time is no test
        "[checks.positive_data_acceptance]",
        f"expected-statuses = {toml(REFUSALS)}",
    ]

    def operations(**settings: Any) -> None:
        lines.append("[[operations]]")
        lines.extend(f"{name.replace('_', '-')} = {toml(value)}" for name, value in settings.items())

    operations(include_path="/v1/tenants", headers={"Authorization": f"Bearer {operator_key}"})
    for kind, name in (("datasets", "name"), ("runs", "id"), ("keys", "id"), ("proposals", "id")):
        known = {"dictionary": "names" if name == "name" else kind, "probability": 0.5}
        operations(include_path_regex=f"^/v1/{kind}/", parameters={f"path.{name}": known})
    for call in BEYOND_A_SCHEMA:
        operations(
            include_name=call,
            checks={"positive_data_acceptance": {"expected-statuses": [*REFUSALS, "400", "413", "422", "429"]}},
        )
    for call in edgeless:
        operations(include_name=call, phases={"coverage": {"enabled": False}})
    # GET and OPTIONS find `GET /v1/runs/{id}` there, for which `batch` is no id.
    methods = ["put", "delete", "patch", "trace"]
    operations(include_path="/v1/runs/batch", phases={"coverage": {"unexpected-methods": methods}})
    return "\n".join(lines)


def told(command: list[str], folder: Path, *, seconds_max: int) -> tuple[int, str]:
    """A program's exit status and what it printed."""
    env = os.environ | {"COLUMNS": "160"}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds_max, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(SECONDS_TO_PROVE_MAX)
def test_the_document_is_true(
    templates: Templates,
    tmp_path: Path,
    start_server: Callable[[Settings], Served],
    tries: Callable[[int, int], int],
) -> None:
    """Goal: no 5xx, every documented status, header and schema true, bad input always refused, authentication never
    ignored. Method: Schemathesis with all checks and a fixed seed, over every call of the document; and the server's
    own counters, that it was asked and failed never."""
    examples = tries(EXAMPLES, EXAMPLES_TO_PROVE)
    with templates.clone("sqlite", tmp_path) as settings:
        first = first_keys(settings)
        served = start_server(settings)
        with served.client() as client:
            admin = Ledger(client, first.admin_key)
            document = client.get("/openapi.json").json()
            edgeless = without_edges(document, examples=examples)
            told_beside = configuration(admin, first.operator_key, examples=examples, edgeless=edgeless)
            (tmp_path / "schemathesis.toml").write_text(told_beside)
            calls = sum(len(methods) for methods in document["paths"].values())
            status, printed = told(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"),
                    *("--header", f"Authorization: Bearer {first.admin_key}"),
                    *("--checks", "all", "--phases", ",".join(PHASES)),
                    *("--seed", str(SEED)),
                    *("--continue-on-failure", "--report", "json", "--report-json-path", "report.json"),
                ],
                tmp_path,
                seconds_max=SECONDS_MAX if examples == EXAMPLES else SECONDS_TO_PROVE_MAX,
            )
            counted = client.get("/metrics").text
    assert status == 0, printed[-20_000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["complete"], report["failures"], report["errors"]) == (True, [], [])
    assert report["operations"]["tested"] == report["operations"]["total"] == calls > 35
    assert {phase: report["phases"][phase]["status"] for phase in PHASES} == dict.fromkeys(PHASES, "success")
    links = re.search(r"API Links: +(\d+) covered", printed)
    assert links is not None
    assert int(links[1]) >= LINKS_MIN
    print(f"Schemathesis made {report['test_cases']['generated']:,} requests, along {links[1]} links")
    assert report["test_cases"]["generated"] > 2000
    answered = [line for line in counted.splitlines() if line.startswith("ledger_requests_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in answered) >= 2000
    assert [line for line in answered if 'status="5' in line] == []
    assert admin.key not in printed


def test_links_lead_to_calls(ledger: Ledger) -> None:
    """Goal: whoever follows the document's links gets where they say. Method: every link of every answer: its call
    exists and takes what it is given; together they lead to every call that names a run, dataset, key or proposal."""
    document = ledger.client.get("/openapi.json").json()
    calls = {call["operationId"]: (path, call) for path, of in document["paths"].items() for call in of.values()}
    leads: set[str] = set()
    for _, call in calls.values():
        for answer in call["responses"].values():
            for link in answer.get("links", {}).values():
                path, wanted = calls[link["operationId"]]
                takes = {each["name"] for each in wanted["parameters"] if each["in"] == "path"}
                assert set(link["parameters"]) <= takes
                leads.add(path)
    wanted_paths = {path for path, _ in calls.values() if path.startswith("/v1/") and "{" in path}
    assert leads == wanted_paths
