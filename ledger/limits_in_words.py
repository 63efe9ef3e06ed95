"""Which limit an account is, in words, and when what is missing there comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

NAMED_MAX: Final = 3
"""How many accounts the message of a refusal names."""


def account_name(item: Mapping[str, Any], dataset: str | None = None) -> str:
    """Return which limit of a dataset an account is. item: its `partition`, `project` or `principal`, and the `name` of
    the dataset unless that is given."""
    name = dataset if dataset is not None else str(item["name"])
    where = f", partition {item['partition']}" if item.get("partition") is not None else ""
    if item.get("principal") is not None:
        return f"the fair-use share of {name}{where}, which limits what one principal may hold at a time"
    if item.get("project") is not None:
        return f"the share of project {item['project']} in {name}{where}"
    return f"the budget of {name}{where}"


def comes_back(items: Iterable[Mapping[str, Any]]) -> str:
    """Return when what is missing in these accounts comes back, and whom to ask."""
    kinds = {
        "principal" if item.get("principal") is not None else "project" if item.get("project") is not None else "budget"
        for item in items
    }
    sentences = []
    if "principal" in kinds:
        sentences.append(
            "A fair-use share comes back when your own runs are settled or voided: privacy-ledger runs --state held,"
            " and --state started."
        )
    if kinds & {"project", "budget"}:
        which = " or ".join(
            {"project": "share", "budget": "budget"}[kind] for kind in ("project", "budget") if kind in kinds
        )
        sentences.append(
            "What is held comes back when runs are voided or end early; what is spent never does. A steward can set a"
            f" larger {which}."
        )
    return " ".join(sentences)


def why_refused(binding: Sequence[Mapping[str, Any]]) -> str:
    """Return which limits a run does not fit in, and when what is missing there comes back."""
    names = list(dict.fromkeys(account_name(item) for item in binding))
    more = f" and {len(names) - NAMED_MAX:,} more" if len(names) > NAMED_MAX else ""
    where = f"{'; in '.join(names[:NAMED_MAX])}{more}"
    return f"The run does not fit in {where}. Change it as in `fits`. {comes_back(binding)}"
