"""A server's problems as exceptions: those of `ledger.errors` by their code, and what only a client can meet.

LedgerError
├── …                   as ledger.errors has them
│   ├── BudgetExceeded  with what a refusal is about as attributes
│   ├── Overrun         with what was charged and frozen
│   └── BatchRefused    with what came of each run
├── PlanExceeded        raised by `run.step()`, before anything is executed
└── Unreachable
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ledger import errors
from ledger.errors import JournalBroken, LedgerError, Misconfigured, Overloaded
from ledger.web import httpx

BINDINGS_SAID_MAX: Final = 5
"""Of the accounts that a refusal names, how many stand in its message; all of them are in `datasets`."""
_MEMBERS: Final = frozenset({"type", "title", "status", "code", "detail"})
"""What every problem has; the rest are its facts."""


class BudgetExceeded(errors.BudgetExceeded):
    """The run does not fit in what is left."""

    code = "budget-exceeded"

    @property
    def run(self) -> str:
        """The id under which the refusal is recorded."""
        return str(self.facts.get("run", ""))

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """What binds, an account each: `name` and, where it is not the whole dataset's, its `partition`, `project` or
        `principal`; `quantity`, `requested`, `remaining` and `limit`."""
        return list(self.facts.get("datasets", ()))

    @property
    def fits(self) -> dict[str, float]:
        """What would make the run fit, each alone: `{"noise_multiplier": 1.31, "steps": 9120}`."""
        return dict(self.facts.get("fits", {}))


class Overrun(errors.Overrun):
    """More was executed than was approved, and it did not fit. It is charged all the same, and the dataset frozen.

    Where no budget there could cover it, nothing is charged until a steward has confirmed or corrected the number.
    """

    code = "overrun"

    @property
    def state(self) -> str:
        """`settled`; or `started`, where the number waits for a steward and the run is held in full."""
        return str(self.facts.get("state", "settled"))

    @property
    def run(self) -> str:
        """The run that it is about. It is settled, or waits for a steward."""
        return str(self.facts.get("run", ""))

    @property
    def charged(self) -> dict[str, Any]:
        """All that the run was charged: what was approved, and what was executed beyond that. Empty if it waits."""
        return dict(self.facts.get("charged", {}))

    @property
    def frozen(self) -> list[str]:
        """The datasets that wait for a steward now."""
        return list(self.facts.get("frozen", ()))

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """What is overdrawn, an account each: named as in a refusal, with `limit`, `spent`, `held` and `overdrawn`."""
        return list(self.facts.get("datasets", ()))


class BatchRefused(errors.BatchRefused):
    """Not every run of the batch can be approved, so none was."""

    code = "batch-refused"

    @property
    def results(self) -> list[dict[str, Any]]:
        """What came of each run, in order: `{"status", "problem"}`. Of one that would fit, its code is that of this."""
        return list(self.facts.get("results", ()))


class PlanExceeded(LedgerError):
    """The next step is not in the plan that was approved. It was not counted, and must not be executed."""

    code = "plan-exceeded"


class Unreachable(LedgerError):
    """The ledger did not answer, or what answered is not a ledger."""

    code = "unreachable"


def of_response(response: httpx.Response, *, url: str) -> LedgerError:
    """The exception for an answer that says no."""
    problem = _problem(response)
    if problem is None:
        status = f"{response.status_code} {response.reason_phrase}".rstrip()
        return Unreachable(f"What answers at {url} is not the ledger, or stands before it: {status}.", url=url)
    code, detail = str(problem["code"]), str(problem.get("detail", problem.get("title", "")))
    facts = {name: value for name, value in problem.items() if name not in _MEMBERS}
    kind = _KINDS.get(code)
    if kind is None:
        error = LedgerError(detail, **facts)
        vars(error)["code"] = code  # a newer server's; whoever knows it can still tell it apart
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
    """Its message says the number by itself."""
    seq, after = int(facts.get("seq", 0)), facts.get("after")
    return JournalBroken(detail.removeprefix(f"entry {seq}: "), seq=seq, after=after)


def retry_after_seconds(response: httpx.Response) -> float | None:
    """How long the server asks to be left alone, where it says so in seconds."""
    seconds = response.headers.get("Retry-After", "").strip()
    return float(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 10 else None


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    try:
        problem = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return problem if isinstance(problem, dict) and "code" in problem else None


def _refusal(facts: Mapping[str, Any]) -> str | None:
    """What a person needs to know of a refusal, in one line; None where the facts are not those that were promised."""
    try:
        bound = "; of ".join(_binding(item) for item in facts["datasets"][:BINDINGS_SAID_MAX])
        more = len(facts["datasets"]) - BINDINGS_SAID_MAX
        fits = ", or ".join(f"{name} {value}" for name, value in facts["fits"].items())
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    would = f"What would fit: {fits}." if fits else "No change of one of its numbers would make it fit."
    return f"The run does not fit in what is left of {bound}{f'; and of {more} more' if more > 0 else ''}. {would}"


def _overrun(facts: Mapping[str, Any]) -> str | None:
    """The same of an overrun."""
    try:
        steps, cost, frozen = facts["overrun"]["steps"], facts["overrun"]["cost"], ", ".join(facts["frozen"])
        which = (
            "more than planned were executed"
            if facts["overrun"].get("repeated") == 0
            else "were beyond the plan or run again"
        )
        sentence = f"{steps} steps {which}, and charged mu {cost['mu']:.3g} as a run of their own."
        if facts["state"] == "started":
            return (
                f"{steps} steps more than planned were reported, mu {cost['mu']:.3g}, which no budget there covers."
                " Nothing is charged, and the run stays held in full, until a steward confirms or corrects the number;"
                f" frozen: {frozen}."
            )
    except (KeyError, TypeError, ValueError):
        return None
    return f"{sentence} That did not fit: frozen until a steward has looked: {frozen}."


def _binding(item: Mapping[str, Any]) -> str:
    parts = [f"{part} {item[part]}" for part in ("partition", "project", "principal") if part in item]
    where = f"{item['name']} ({', '.join(parts)})" if parts else item["name"]
    requested, remaining, limit = _distinct(item["requested"], item["remaining"], item["limit"])
    return f"{where}: it asks for {item['quantity']} {requested}, {remaining} of {limit} is left"


def _distinct(*numbers: float) -> list[str]:
    """Numbers with three digits, or with as many as it takes to see that they differ."""
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


# The deepest class of a code wins, so that BudgetExceeded is the one above; the root's code stands for Internal. The
# three that are left out never come over the wire.
_KINDS: Final[dict[str, type[LedgerError]]] = {
    kind.code: kind
    for kind in _tree(LedgerError)
    if "code" in vars(kind) and not issubclass(kind, (Misconfigured, PlanExceeded, Unreachable))
} | {errors.Internal.code: errors.Internal}
