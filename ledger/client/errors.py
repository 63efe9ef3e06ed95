"""The server's problems as exceptions: those of `ledger.errors` by their code, and those of the client alone.

LedgerError
├── …                   as in ledger.errors
│   ├── BudgetExceeded  with the facts of a refusal as attributes
│   ├── Overrun         with what was charged and frozen
│   └── BatchRefused    with the outcome of each run
├── DryRun              raised instead of entering a dry run
├── PlanExceeded        raised by `run.step()`, before the step is executed
└── Unreachable
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ledger import errors
from ledger.client import notebooks
from ledger.errors import JournalBroken, LedgerError, Misconfigured, Overloaded
from ledger.limits_in_words import account_name, comes_back
from ledger.web import httpx

BINDINGS_SAID_MAX: Final = 5
"""How many accounts the message of a refusal names at most. All of them are in `datasets`."""
_MEMBERS: Final = frozenset({"type", "title", "status", "code", "detail"})
"""The members of every problem. Its other members are its facts."""


class BudgetExceeded(errors.BudgetExceeded):
    """The run does not fit in what is left."""

    code = "budget-exceeded"

    @property
    def run(self) -> str:
        """Return the id of the refused run."""
        return str(self.facts.get("run", ""))

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """Return the limits that do not fit, one for each account and quantity.

        Each has `name`; `partition`, `project` or `principal` unless it is the account of the whole dataset;
        `quantity` (`mu` or `delta`), `requested`, `remaining` and `limit`.
        """
        return list(self.facts.get("datasets", ()))

    @property
    def fits(self) -> dict[str, float]:
        """Return values that would fit, each if you change it alone: `{"noise_multiplier": 1.31, "steps": 9120}`."""
        return dict(self.facts.get("fits", {}))

    def _repr_html_(self) -> str:
        rows: list[notebooks.Row] = [(account_name(item), _needs(item)) for item in self.datasets]
        rows += [("would fit", f"{name}={value}") for name, value in self.fits.items()]
        return notebooks.table(rows, title=f"Refused: run {self.run}")


class Overrun(errors.Overrun):
    """More was executed than was approved, and it did not fit. It is charged anyway, and the dataset is frozen.

    If no budget could cover it, nothing is charged until a steward confirms or corrects the number of steps.
    """

    code = "overrun"

    @property
    def state(self) -> str:
        """Return `settled`; or `started`, held in full, until a steward confirms the number of steps."""
        return str(self.facts.get("state", "settled"))

    @property
    def run(self) -> str:
        """Return the id of the run."""
        return str(self.facts.get("run", ""))

    @property
    def charged(self) -> dict[str, Any]:
        """Return the whole charge of the run: what was approved and what was executed beyond it.

        It is empty if the run is still `started`.
        """
        return dict(self.facts.get("charged", {}))

    @property
    def frozen(self) -> list[str]:
        """Return the names of the datasets that were frozen."""
        return list(self.facts.get("frozen", ()))

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """Return the overdrawn accounts, named as in BudgetExceeded.datasets.

        Each also has `limit`, `spent`, `held` and `overdrawn`.
        """
        return list(self.facts.get("datasets", ()))


class BatchRefused(errors.BatchRefused):
    """Not every run of the batch can be approved, so none was approved."""

    code = "batch-refused"

    @property
    def results(self) -> list[dict[str, Any]]:
        """Return the outcome of each run, in order: `{"status", "problem"}`.

        A run that would fit has the code `batch-refused`.
        """
        return list(self.facts.get("results", ()))


class PlanExceeded(LedgerError):
    """The next step is beyond the approved plan. It was not counted. Do not execute it."""

    code = "plan-exceeded"


class DryRun(LedgerError):
    """Nothing was approved: `dry_run=True` only shows what the ledger would answer. Do not train."""

    code = "dry-run"

    @classmethod
    def of(cls, plan: dict[str, Any], segments: int | None) -> DryRun:
        """Return the exception for the answer to a plan."""
        cost = plan["cost"]
        text = (
            f"A dry run: nothing was approved, so do not train. It would cost mu {cost['mu']:.6g}, delta"
            f" {cost['delta']:.3g}."
        )
        if plan["fits"]:
            text += " It fits now."
            if plan.get("waits"):
                text += (
                    f" It would wait until a steward approves it: it asks for much of {', '.join(plan['waits_for'])}."
                )
            if (segments or 1) == 1:
                text += " If it may stop early: with segments=4 it would be charged for those that were begun."
        else:
            bindings = [item for item in plan["binding"] if item["remaining"] is not None]
            text += f" {_not_fitting(bindings, plan['would_fit'], plan)}"
        return cls(text, plan=plan)

    @property
    def plan(self) -> dict[str, Any]:
        """Return the whole answer, as of `Ledger.plan`."""
        return dict(self.facts["plan"])

    def _repr_html_(self) -> str:
        return notebooks.Shown(self.plan).to_html()


class Unreachable(LedgerError):
    """The ledger did not answer, or another server answered."""

    code = "unreachable"


def of_response(response: httpx.Response, *, url: str) -> LedgerError:
    """Return the exception for an error response."""
    problem = _problem(response)
    if problem is None:
        status = f"{response.status_code} {response.reason_phrase}".rstrip()
        return Unreachable(
            f"The answer from {url} is not one of the ledger: {status}. Check LEDGER_URL, and any proxy.", url=url
        )
    code, detail = str(problem["code"]), str(problem.get("detail", problem.get("title", "")))
    facts = {name: value for name, value in problem.items() if name not in _MEMBERS}
    kind = _KINDS.get(code)
    if kind is None:
        error = LedgerError(detail, **facts)
        vars(error)["code"] = code  # an error of a newer server; callers can still read its code
        return error
    if issubclass(kind, Overloaded):
        return kind(detail, retry_after_seconds=round(retry_after_seconds(response) or 1), **facts)
    if issubclass(kind, JournalBroken):
        return _broken(detail, facts)
    if issubclass(kind, BudgetExceeded):
        detail = _refusal(facts) or detail
    if issubclass(kind, Overrun):
        detail = _overrun(facts) or detail
    return kind(detail, **facts)


def _broken(detail: str, facts: Mapping[str, Any]) -> JournalBroken:
    """Return JournalBroken, whose message adds the entry's number itself."""
    seq, after = int(facts.get("seq", 0)), facts.get("after")
    return JournalBroken(detail.removeprefix(f"entry {seq}: "), seq=seq, after=after)


def retry_after_seconds(response: httpx.Response) -> float | None:
    """Return the seconds in Retry-After; None if it has no number of seconds."""
    seconds = response.headers.get("Retry-After", "").strip()
    return float(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 10 else None


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    try:
        problem = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return problem if isinstance(problem, dict) and "code" in problem else None


def _refusal(facts: Mapping[str, Any]) -> str | None:
    """Return the message of a refusal; None if the facts are not as documented."""
    try:
        refused = _not_fitting(facts["datasets"], facts["fits"], facts)
        return f"{refused}{_as_one(facts)} {comes_back(facts['datasets'])}"
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _not_fitting(bindings: Sequence[Mapping[str, Any]], would_fit: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return what binds, and the arguments to change, as they are typed. facts: the answer, with the run's epsilon."""
    binding = "; ".join(_binding(item) for item in bindings[:BINDINGS_SAID_MAX])
    more = len(bindings) - BINDINGS_SAID_MAX
    fits = ", or ".join(f"{name}={value}" for name, value in would_fit.items())
    would = f"This would fit: {fits}." if fits else "No change of a single parameter would make it fit."
    others = f"; and {more} more" if more > 0 else ""
    return f"The run does not fit. It exceeds {binding}{others}.{_alone(facts)} {would}"


def _alone(facts: Mapping[str, Any]) -> str:
    """Return the epsilon of the run by itself; nothing if that is not known."""
    known = [item for item in facts.get("epsilon", ()) if isinstance(item, dict) and item.get("value") is not None]
    shown = ", ".join(f"epsilon {item['value']:.3g} at delta {item['delta']:.3g}" for item in known)
    return f" By itself it has {shown}." if shown else ""


def _as_one(facts: Mapping[str, Any]) -> str:
    """Return what the run and the equal ones before it would cost as one run; nothing if that is not known."""
    try:
        one, name = facts["as_one"], facts["as_one"]["solve_for"]
        before, whole = (
            "" if one.get(part) is None else f"{one[part]:.4g} % of the budget, "
            for part in ("percent_charged", "percent")
        )
        return (
            f" The {one['runs'] - 1} equal runs before it were charged {before}mu {one['charged']['mu']:.3g}; with it,"
            f" as one run with {name} {one['value']}, they would cost {whole}mu {one['cost']['mu']:.3g} by itself."
        )
    except (KeyError, TypeError, ValueError):
        return ""


def _overrun(facts: Mapping[str, Any]) -> str | None:
    """Return the message of an overrun; None if the facts are not as documented."""
    try:
        steps, cost, frozen = facts["overrun"]["steps"], facts["overrun"]["cost"], ", ".join(facts["frozen"])
        which = (
            "more than planned were executed"
            if facts["overrun"].get("repeated") == 0
            else "were beyond the plan or repeated"
        )
        in_all = f" In all the run is charged {facts['percent']:.4g} % of the budget." if facts.get("percent") else ""
        sentence = f"{steps} steps {which}. They are charged mu {cost['mu']:.3g}, as a run of their own.{in_all}"
        if facts["state"] == "started":
            return (
                f"{steps} steps more than planned were reported. They cost mu {cost['mu']:.3g}, which no budget covers."
                " Nothing is charged, and the run stays held in full, until a steward confirms or corrects the number."
                f" Frozen: {frozen}."
            )
    except (KeyError, TypeError, ValueError):
        return None
    if raised := facts.get("before_raise"):
        was = "That is more than was left when the limit was raised, after the run was approved, though it fits now"
        return f"{sentence} {was}: {', '.join(raised)}. Frozen until a steward thaws it: {frozen}."
    return f"{sentence} That does not fit. Frozen until a steward thaws it: {frozen}."


def _binding(item: Mapping[str, Any]) -> str:
    return f"{account_name(item)}: it {_needs(item)}"


def _needs(item: Mapping[str, Any]) -> str:
    requested, remaining, limit = _distinct(item["requested"], item["remaining"], item["limit"])
    units = f"{item['quantity']} {requested}, and {remaining} of {limit} is left"
    asked, left = item.get("percent_requested"), item.get("percent_remaining")
    if asked is None or left is None:
        return f"needs {units}"
    of = "the budget" if item["quantity"] == "mu" else "the delta of the budget"
    return f"needs {asked:.4g} % of {of}, and {left:.4g} % is left (it needs {units})"


def _distinct(*numbers: float) -> list[str]:
    """Return the numbers with three digits, or with as many as show that they differ."""
    texts: list[str] = []
    for digits in range(3, 18):
        texts = [f"{number:.{digits}g}" for number in numbers]
        if len(set(texts)) == len(set(numbers)):
            break
    return texts


def _tree(kind: type[LedgerError]) -> Iterator[type[LedgerError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


# The deepest class of a code wins, so that BudgetExceeded is the one above; the root's code means Internal. The server
# never sends the four that are left out.
_KINDS: Final[dict[str, type[LedgerError]]] = {
    kind.code: kind
    for kind in _tree(LedgerError)
    if "code" in vars(kind) and not issubclass(kind, (DryRun, Misconfigured, PlanExceeded, Unreachable))
} | {errors.Internal.code: errors.Internal}
