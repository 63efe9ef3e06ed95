"""A call of the ledger as data, and the calls about runs, reports and exports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

from ledger.client.dates import moment
from ledger.client.mechanisms import AnyMechanism, Number
from ledger.client.models import Model, stated_models
from ledger.client.wire import encode
from ledger.errors import IdempotencyKeyMissing, InvalidRequest

PAGE_LIMIT: Final = 1000
Label = str | bool | Number
"""The value of a label. The ledger keeps a number or a boolean as a text, such as `0.1` or `true`."""
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    is_repeatable: sending it twice has the effect of sending it once, so it is retried if its answer was lost.
    is_streamed: the answer is read in pieces. is_slow: the answer may begin only after minutes.
    keys: the idempotency keys of the runs that it asks for.
    """

    method: str
    path: str
    is_repeatable: bool
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    is_streamed: bool = False
    is_slow: bool = False
    keys: tuple[str, ...] = ()


def path(*parts: str) -> str:
    """Return a path of the API, with each part quoted."""
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


def get(*parts: str, **params: object) -> Call:
    """Describe a GET."""
    query = {
        name: [str(item) for item in value] if isinstance(value, list | tuple) else _text(value)
        for name, value in params.items()
        if value is not None
    }
    return Call("GET", path(*parts), is_repeatable=True, params=query)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(*parts: str, **params: object) -> Call:
    """Describe a GET of a list, with the largest pages."""
    return get(*parts, limit=PAGE_LIMIT, **params)


def send(
    method: str, *parts: str, is_repeatable: bool = False, headers: Mapping[str, str] | None = None, **body: object
) -> Call:
    """Describe a request whose body is an object of the members that are not None."""
    given = {name: value for name, value in body.items() if value is not None}
    return Call(
        method,
        path(*parts),
        is_repeatable=is_repeatable,
        headers={**_JSON, **(headers or {})},
        content=encode(given).encode(),
    )


def ask(
    *,
    datasets: Sequence[str | Mapping[str, Any]],
    mechanism: AnyMechanism,
    delta: Number | None = None,
    segments: int | None = None,
    project: str | None = None,
    purpose: str | None = None,
    labels: Mapping[str, Label] | None = None,
    code: Mapping[str, str] | None = None,
    valid_for: str | timedelta | None = None,
    idempotency_key: str | None = None,
    size_differs: str | None = None,
) -> Call:
    """Ask for a run, with one key for all retries. Raises IdempotencyKeyMissing if the key is not a valid one."""
    key = _key(idempotency_key, field="Idempotency-Key")
    call = send(
        "POST",
        "runs",
        is_repeatable=True,
        headers={"Idempotency-Key": key},
        datasets=datasets,
        mechanism=mechanism,
        delta=delta,
        segments=segments,
        project=project,
        purpose=purpose,
        labels=labels,
        code=code,
        size_differs=size_differs,
        valid_for=valid_for,
    )
    return replace(call, keys=(key,))


def with_key(call: Call, key: str) -> Call:
    """Return the same request for a run with another idempotency key."""
    return replace(call, headers={**call.headers, "Idempotency-Key": key}, keys=(key,))


def plan(
    *,
    datasets: Sequence[str | Mapping[str, Any]] | None = None,
    mechanism: AnyMechanism,
    delta: Number | None = None,
    segments: int | None = None,
    project: str | None = None,
    solve_for: str | None = None,
    size_differs: str | None = None,
    budget: Mapping[str, Any] | None = None,
    bound: str | None = None,
    adjacency: str | None = None,
    at_most_percent: Number | None = None,
) -> Call:
    """Check whether a run would fit now."""
    return send(
        "POST",
        "plan",
        is_repeatable=True,
        datasets=datasets,
        mechanism=mechanism,
        delta=delta,
        segments=segments,
        project=project,
        solve_for=solve_for,
        size_differs=size_differs,
        budget=budget,
        bound=bound,
        adjacency=adjacency,
        at_most_percent=at_most_percent,
    )


def ask_batch(runs: Sequence[Mapping[str, Any]], *, atomic: bool, as_many_as_fit: bool) -> Call:
    """Ask for several runs, each with its own key. Raises IdempotencyKeyMissing if a key is not a valid one."""
    keys = tuple(
        _key(run.get("idempotency_key"), field=f"runs.{index}.idempotency_key") for index, run in enumerate(runs)
    )
    requests = [
        {**{name: value for name, value in run.items() if value is not None}, "idempotency_key": key}
        for run, key in zip(runs, keys, strict=True)
    ]
    most = as_many_as_fit or None
    call = send("POST", "runs", "batch", is_repeatable=True, runs=requests, atomic=atomic, as_many_as_fit=most)
    return replace(call, keys=keys)


def _key(given: Any, *, field: str) -> str:
    """Return the given key, or a new one. Raises IdempotencyKeyMissing."""
    if given is None:
        return uuid4().hex
    if not isinstance(given, str) or not _KEY.fullmatch(given):
        raise IdempotencyKeyMissing(f"{field} must be 1 to 255 visible ASCII characters.", field=field)
    return given


def start(run: str, *, token: str) -> Call:
    """Start a run, by the process that has this token."""
    return send("POST", "runs", run, "start", is_repeatable=True, token=token)


def report_progress(run: str, *, steps: int, reporter: str | None = None) -> Call:
    """Report how many steps a run has executed, at least."""
    return send("PUT", "runs", run, "progress", is_repeatable=True, steps=steps, reporter=reporter)


def settle(
    run: str,
    *,
    steps: int | None = None,
    stop: str | None = None,
    restarts: Sequence[Mapping[str, Any]] | None = None,
    models: Sequence[Model] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Call:
    """Settle a run for what it executed."""
    executed = _executed(steps=steps, stop=stop, restarts=restarts, models=models, evidence=evidence)
    return send("POST", "runs", run, "settle", is_repeatable=True, **executed)


def correct(
    run: str,
    *,
    reason: str,
    steps: int | None = None,
    stop: str | None = None,
    restarts: Sequence[Mapping[str, Any]] | None = None,
    models: Sequence[Model] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Call:
    """Settle a run for what it executed, instead of what it reported."""
    executed = _executed(steps=steps, stop=stop, restarts=restarts, models=models, evidence=evidence)
    return send("POST", "runs", run, "correct", is_repeatable=True, reason=reason, **executed)


def correction(
    run: str,
    *,
    mechanism: AnyMechanism,
    reason: str,
    decided_by_output: bool,
    on_word_of: str | None = None,
    advisory: str | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Call:
    """Correct what a settled run was declared as."""
    return send(
        "POST",
        "runs",
        run,
        "correction",
        is_repeatable=True,
        mechanism=mechanism,
        reason=reason,
        decided_by_output=decided_by_output,
        on_word_of=on_word_of,
        advisory=advisory,
        evidence=evidence,
    )


def _executed(
    *, restarts: Sequence[Mapping[str, Any]] | None, models: Sequence[Model] | None, **given: Any
) -> dict[str, Any]:
    """Return what was executed, with the digests of files. Raises InvalidRequest if a file cannot be read."""
    stated = None if restarts is None else [*map(dict, restarts)]
    return {**given, "restarts": stated, "models": None if models is None else stated_models(models)}


def attestation(run: str) -> Call:
    """Read the signed statement about what a settled run produced."""
    return get("runs", run, "attestation")


def run_info(run: str) -> Call:
    """Read a run and its state."""
    return get("runs", run)


def receipt(run: str) -> Call:
    """Read the signed receipt of a run."""
    return get("runs", run, "receipt")


def jwks() -> Call:
    """Read the public keys that verify receipts."""
    return Call("GET", "/.well-known/jwks.json", is_repeatable=True)


def export(name: str) -> Call:
    """Read a dataset's whole journal."""
    return replace(get("datasets", name, "export"), is_streamed=True)


def export_tenant() -> Call:
    """Read the tenant's whole own journal."""
    return replace(get("export"), is_streamed=True)


def report(
    dataset: str | None,
    project: str | None,
    *,
    form: str,
    since: str | datetime | None,
    until: str | datetime | None,
    made_on: str | None,
    contact: str | None,
) -> Call:
    """Read the report of a dataset, a project, or the tenant if neither is named. Raises InvalidRequest."""
    if dataset is not None and project is not None:
        raise InvalidRequest(
            "dataset and project exclude each other. Name one of them, or neither for the whole tenant.",
            field="dataset",
        )
    parts = ("datasets", dataset) if dataset is not None else ("projects", project) if project is not None else ()
    period = {"from": moment(since, field="from"), "to": moment(until, field="to")}
    stated = {"made_on": made_on, "contact": contact}
    return replace(get(*parts, "report", format=form, **period, **stated), is_streamed=True, is_slow=True)
