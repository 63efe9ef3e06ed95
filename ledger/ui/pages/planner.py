"""The planner: what a run would cost and leave, variants beside each other, and how to ask for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode
from uuid import uuid4

from starlette.responses import Response

from ledger.errors import InvalidRequest, LedgerError
from ledger.service.planner import PlanRequest
from ledger.service.shapes.accountant import Planned
from ledger.ui import forms
from ledger.ui.view import View

VARIANTS_MAX: Final = 6
DATASETS_LISTED: Final = 200
_OWN: Final = frozenset({"dataset", "partition", "project", "run", "delta", "vary", "values", "solve_for", "done"})
FIELDS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "gaussian": (("noise_multiplier", "Noise multiplier"), ("count", "Releases")),
    "laplace": (("noise_multiplier", "Noise multiplier"), ("count", "Releases")),
    "pure_dp": (("epsilon", "Epsilon of each release"), ("count", "Releases")),
    "dpsgd": (
        ("noise_multiplier", "Noise multiplier"),
        ("dataset_size", "Records"),
        ("batch_size", "Batch size"),
        ("epochs", "Epochs"),
        ("sampling", "Sampling"),
    ),
}
"""The types of mechanisms that have a form, each with its usual fields. Others come by an address."""
DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "gaussian": {"noise_multiplier": "5", "count": "1"},
    "laplace": {"noise_multiplier": "5", "count": "1"},
    "pure_dp": {"epsilon": "0.1", "count": "1"},
    "dpsgd": {"noise_multiplier": "1.1", "batch_size": "256", "epochs": "10", "sampling": "poisson"},
}
_CLASSES: Final = {"gaussian": "Gaussian", "laplace": "Laplace", "pure_dp": "PureDP", "dpsgd": "DPSGD"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One run that might be asked for. plan: None if it cannot be planned, for the reason in `error`. body: the
    request for it, as JSON."""

    title: str
    mechanism: Mapping[str, Any]
    plan: Planned | None
    error: str | None
    snippets: Mapping[str, str]
    href: str
    body: str

    @property
    def fits(self) -> list[tuple[str, float, str]]:
        """Return each change that would make it fit, with the address of the planner for it."""
        changes = {} if self.plan is None else self.plan["would_fit"]
        return [(name, value, _with(self.href, name, value)) for name, value in changes.items()]


def _with(href: str, name: str, value: float) -> str:
    path, _, query = href.partition("?")
    return f"{path}?{urlencode({**dict(parse_qsl(query)), name: value})}"


async def show(view: View) -> Response:
    """Show the planner, with what the address asks for."""
    query = {name: value for name, value in view.request.query_params.items() if value != ""}
    base = await _of_run(view, query.get("run"))
    if query.get("type", base.get("mechanism", {}).get("type")) != base.get("mechanism", {}).get("type"):
        base = {name: value for name, value in base.items() if name != "mechanism"}
    fields = _fields(query, base.get("mechanism", {}))
    kind = fields["type"]
    error, variants = None, []
    dataset = query.get("dataset", _first(base))
    if dataset:
        try:
            variants = await _variants(view, query, base, fields, dataset)
        except LedgerError as problem:
            error = problem.detail
    names = await view.run(view.services.datasets.page, view.actor, limit=DATASETS_LISTED, cursor=None)
    known = [name for name, _ in FIELDS.get(kind, ())]
    return await view.page(
        "planner.html",
        names=[one["name"] for one in names["items"]],
        kinds=sorted({*FIELDS, kind}),
        fields=[(name, title, fields.get(name, "")) for name, title in FIELDS.get(kind, ())],
        more=[(name, value) for name, value in fields.items() if name not in known and name != "type"],
        kind=kind,
        dataset=dataset or "",
        partition=query.get("partition", ", ".join(_partitions(base))),
        project=query.get("project", base.get("project") or ""),
        run=query.get("run", "") if base else "",
        vary=query.get("vary", ""),
        values=query.get("values", ""),
        variants=variants,
        error=error,
        key=f"page-{uuid4()}",
    )


async def ask(view: View) -> Response:
    """Ask for a run that was planned. Whether it is approved or refused, its page shows why. The form's key is that of
    one run, so sending the form twice asks once."""
    form = view.form
    purpose = form.get("purpose", "").strip() or None
    run = await view.ask(form.get("request", ""), purpose=purpose, key=form.get("key", ""))
    return view.redirect(f"/ui/runs/{run}", done="asked")


async def _of_run(view: View, text: str | None) -> dict[str, Any]:
    """Return the request of the run that the planner begins with, if the address names one."""
    if text is None:
        return {}
    run = await view.services.runs.show(view.actor, await view.services.runs.found(view.actor, text))
    return {**run["request"], "project": run["project"]}


def _fields(query: Mapping[str, str], base: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of the mechanism, as texts: of the run, changed by the address; or with usual values."""
    kind = query.get("type", str(base.get("type", "gaussian")))
    known = {name for name, _ in FIELDS.get(kind, ())}
    foreign = {name for fields in FIELDS.values() for name, _ in fields} - known if known else set()
    stated = {name: value for name, value in query.items() if name not in _OWN and name not in foreign}
    plain = {name: str(value) for name, value in base.items() if _is_plain(value)}
    has_others = bool(set(stated) - known - {"type"})
    return {**({} if plain or has_others else DEFAULTS.get(kind, {})), **plain, **stated, "type": kind}


def _first(base: Mapping[str, Any]) -> str | None:
    for use in base.get("datasets", ()):
        return str(use if isinstance(use, str) else use["name"])
    return None


def _partitions(base: Mapping[str, Any]) -> list[str]:
    for use in base.get("datasets", ()):
        return [] if isinstance(use, str) else list(use.get("partitions") or ())
    return []


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | Decimal | str)


async def _variants(
    view: View, query: Mapping[str, str], base: Mapping[str, Any], fields: Mapping[str, str], dataset: str
) -> list[Variant]:
    """Return a variant for each value of the field that varies, or one. Raises InvalidRequest."""
    nested = {name: value for name, value in base.get("mechanism", {}).items() if not _is_plain(value)}
    partitions = forms.listed(query.get("partition")) or _partitions(base)
    use = {"name": dataset, "partitions": partitions} if partitions else dataset
    request = forms.given([("datasets", [use]), ("project", query.get("project", base.get("project")))])
    mechanism = {"type": fields["type"], **nested, **{name: forms.value_of(text) for name, text in fields.items()}}
    vary = query.get("vary")
    values = forms.listed(query.get("values")) if vary else []
    if len(values) > VARIANTS_MAX:
        raise InvalidRequest(f"values: {len(values)} are too many; compare at most {VARIANTS_MAX}", field="values")
    if not values or vary is None:
        return [await _variant(view, request, mechanism, "This run", query)]
    return [
        await _variant(view, request, {**mechanism, vary: forms.value_of(value)}, f"{vary} {value}", query)
        for value in values
    ]


async def _variant(
    view: View, request: Mapping[str, Any], mechanism: Mapping[str, Any], title: str, query: Mapping[str, str]
) -> Variant:
    plan, error = None, None
    try:
        plan = await view.services.planner.plan(
            view.actor, forms.read(PlanRequest, {**request, "mechanism": mechanism})
        )
    except LedgerError as problem:
        error = problem.detail
    kept = {name: value for name, value in query.items() if name in ("dataset", "partition", "project", "run")}
    plain = {name: str(value) for name, value in mechanism.items() if _is_plain(value)}
    href = f"/ui/planner?{urlencode({**kept, **plain})}"
    body = json.dumps({**request, "mechanism": mechanism}, default=_as_number)
    return Variant(title, mechanism, plan, error, snippets(request, mechanism), href, body)


# --- how to ask for it -----------------------------------------------------------------------------------------------


def snippets(request: Mapping[str, Any], mechanism: Mapping[str, Any]) -> dict[str, str]:
    """Return how to ask for a run in Python, in a terminal and by HTTP. Every text of a caller's is quoted."""
    (use,) = request["datasets"]
    name = use if isinstance(use, str) else use["name"]
    more = {"project": request["project"]} if "project" in request else {}
    body = {**request, "mechanism": mechanism, "purpose": "why"}
    return {
        "Python": _python(request["datasets"], mechanism, more),
        "Command line": _shell(name, use, mechanism, more),
        "curl": 'curl -X POST "$LEDGER_URL/v1/runs" -H "Authorization: Bearer $LEDGER_KEY" \\\n'
        "  -H 'Content-Type: application/json' -H 'Idempotency-Key: a-key-of-this-job' \\\n"
        f"  -d {shlex.quote(json.dumps(body, default=_as_number))}",
    }


def _python(datasets: Sequence[Any], mechanism: Mapping[str, Any], more: Mapping[str, Any]) -> str:
    given = {name: value for name, value in mechanism.items() if name != "type"}
    cls = _CLASSES.get(str(mechanism["type"]))
    if cls is None or not all(name.isidentifier() for name in given):
        described, names = _literal(mechanism), "Ledger"
    else:
        described = f"{cls}({', '.join(f'{name}={_literal(value)}' for name, value in given.items())})"
        names = f"{cls}, Ledger"
    extra = "".join(f", {name}={_literal(value)}" for name, value in more.items())
    return (
        f"from ledger.client import {names}\n\n"
        "with Ledger() as ledger:\n"
        f'    with ledger.run(datasets={_literal(datasets)}, mechanism={described}{extra}, purpose="why") as run:\n'
        "        ...  # use the data here"
    )


def _shell(name: str, use: Any, mechanism: Mapping[str, Any], more: Mapping[str, Any]) -> str:
    words = ["privacy-ledger", "request", name]
    if not all(_is_plain(value) for value in mechanism.values()):
        return "# This mechanism has parts: send it with curl or from Python."
    for option, value in [*mechanism.items(), *more.items(), ("purpose", "why")]:
        words += [f"--{str(option).replace('_', '-')}", str(value)]
    for partition in () if isinstance(use, str) else use["partitions"]:
        words += ["--partition", partition]
    return shlex.join(words)


def _literal(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_literal(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _as_number(value: Any) -> float:
    return float(value)
