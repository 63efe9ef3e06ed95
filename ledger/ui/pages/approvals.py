"""What waits for a second person: a list, each proposal with what it changes, and the answer to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from ledger.access import roles
from ledger.errors import InvalidRequest, NotFound
from ledger.service.requests.tenants import Approval, Refusal
from ledger.service.shapes.datasets import DatasetShown
from ledger.service.shapes.tenants import ProposalShown, ProposalStateShown
from ledger.ui.view import View

SHOWN: Final = 25
STATES: Final = ("open", "approved", "refused", "expired")
_BUDGET: Final = ("epsilon", "at_delta", "slack", "mu", "delta")


class Change(NamedTuple):
    """A row of what a proposal changes; before: None if there was nothing, or it is not known."""

    what: str
    before: Any
    after: Any


async def listed(view: View) -> Response:
    """List proposals, newest first."""
    state = view.query("state") or "open"
    if state not in STATES:
        raise InvalidRequest(f"state: must be one of {', '.join(STATES)}", field="state")
    page = await view.run(
        view.services.proposals.page,
        view.actor,
        state=cast("ProposalStateShown", state),
        limit=SHOWN,
        cursor=view.query("cursor"),
    )
    return await view.page("approvals.html", state=state, states=STATES, **page)


async def show(view: View) -> Response:
    """Show a proposal, and what it changes."""
    proposal_id = await view.services.proposals.found(view.actor, view.params["id"])
    if str(proposal_id) != view.params["id"]:
        return view.redirect(f"/ui/approvals/{proposal_id}")
    return await _page(view, proposal_id)


async def approve(view: View) -> Response:
    """Approve a proposal."""
    proposal_id = await view.services.proposals.found(view.actor, view.params["id"])
    body = _body(Approval, {"reason": view.form.get("reason", "").strip() or None})
    await view.services.proposals.approve(view.actor, proposal_id, reason=body.reason)
    return view.redirect(f"/ui/approvals/{proposal_id}", done="approved")


async def refuse(view: View) -> Response:
    """Refuse a proposal."""
    proposal_id = await view.services.proposals.found(view.actor, view.params["id"])
    reason = view.form.get("reason", "").strip()
    if not reason:
        error = "Write why you refuse it: the journal keeps the reason."
        return await _page(view, proposal_id, status=422, error=error)
    body = _body(Refusal, {"reason": reason})
    await view.services.proposals.refuse(view.actor, proposal_id, reason=body.reason)
    return view.redirect(f"/ui/approvals/{proposal_id}", done="refused")


async def _page(view: View, proposal_id: UUID, *, status: int = 200, error: str | None = None) -> Response:
    proposal = await view.run(view.services.proposals.show, view.actor, proposal_id)
    is_mine = proposal["proposed_by"].get("principal") == str(view.actor.principal_id)
    return await view.page(
        "approval.html",
        status=status,
        error=error,
        proposal=proposal,
        changes=await _changes(view, proposal),
        reason=_reason(proposal["proposes"]),
        is_mine=is_mine,
        may_answer=proposal["state"] == "open" and not is_mine and roles.may(view.actor, "manage datasets"),
    )


async def _changes(view: View, proposal: ProposalShown) -> list[Change]:
    """Return what a proposal changes: of a dataset as it is now, of a run as it was asked for."""
    proposes = proposal["proposes"]
    if proposal["what"] in ("void", "correction", "run"):
        return await _of_run(view, proposal)
    try:
        dataset = await view.services.datasets.show(view.actor, proposal["dataset"])
    except NotFound:
        return []
    return list(_of_dataset(proposal["what"], proposes, dataset))


def _of_dataset(what: str, proposes: Mapping[str, Any], dataset: DatasetShown) -> Iterator[Change]:
    match what:
        case "budget":
            yield from _budgets(dataset["budget"] or {}, proposes["budget"])
        case "thaw":
            yield Change("state", dataset["state"], "active")
        case "partitions":
            count = dataset["partition_count"] or 0
            yield Change("partitions", count, count + len(proposes["names"]))
            for name in proposes["names"][:SHOWN]:
                yield Change("new partition", None, name)
        case "project":
            before = next((one["budget"] for one in dataset["projects"] if one["name"] == proposes["project"]), {})
            yield Change("project", proposes["project"], proposes["project"])
            yield from _budgets(before, proposes["budget"])
        case "fair-use":
            now: Mapping[str, Any] = cast("Mapping[str, Any]", dataset["fair_use"] or {})
            then = proposes["fair_use"]
            yield from _budgets(now.get("held") or {}, then.get("held") or {}, before="held at once: ")
            for name in ("runs_per_hour", "waits_above_percent"):
                yield Change(name.replace("_", " "), now.get(name), then.get(name))
        case _:
            pass


def _budgets(now: Mapping[str, Any], then: Mapping[str, Any], *, before: str = "") -> Iterator[Change]:
    for name in _BUDGET:
        if name in now or name in then:
            yield Change(before + name.replace("_", " "), _float(now.get(name)), _float(then.get(name)))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


async def _of_run(view: View, proposal: ProposalShown) -> list[Change]:
    request = proposal["proposes"].get("request", {})
    if proposal["what"] == "run" or proposal["run"] is None:
        return [Change("the run", "waits", "is decided, against what is left then")]
    run = await view.services.runs.show(view.actor, UUID(proposal["run"]))
    if proposal["what"] == "void":
        return [
            Change("state of the run", run["state"], "voided"),
            Change("what it holds, in percent", run.get("percent"), 0),
        ]
    event = run.get("reported")
    reported = None if event is None else event.get("steps")
    return [
        Change("state of the run", run["state"], "settled"),
        Change("steps", reported, request.get("steps")),
    ]


def _reason(proposes: Mapping[str, Any]) -> str | None:
    reason = proposes.get("reason") or proposes.get("request", {}).get("reason")
    return None if reason is None else str(reason)


def _body(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Return a form's fields as the API reads the same body. Raises InvalidRequest."""
    model: type[BaseModel] = kind
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{field}: {first['msg']}", field=field) from None
