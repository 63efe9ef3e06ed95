"""The reference of the error codes, from the tree of errors, the table of statuses and the OpenAPI document."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from guide import http
from guide.markdown import anchor, code, sentence, table
from ledger.api.problems import STATUS
from ledger.errors import LedgerError


def tree() -> Iterator[tuple[int, type[LedgerError]]]:
    """Every error of the ledger, with how deep it stands below the first."""
    yield from _below(LedgerError, 0)


def _below(error: type[LedgerError], depth: int) -> Iterator[tuple[int, type[LedgerError]]]:
    yield depth, error
    for part in error.__subclasses__():
        if part.__module__ == LedgerError.__module__:
            yield from _below(part, depth + 1)


def page(document: Mapping[str, Any]) -> str:
    """The page: the table of codes, each code with the calls that return it, and the tree of exceptions."""
    classes = {error.code: error for _, error in tree() if "code" in vars(error)}
    rows = [(f"[{code(name)}](#{name})", str(status), _message(name, classes)) for name, status in STATUS.items()]
    text = f"""# Error codes

Every error of the API is `application/problem+json` (RFC 9457):

```json
{{"type": "urn:privacy-ledger:problem:not-found", "title": "Not Found",
 "status": 404, "code": "not-found", "detail": "…"}}
```

Decide by `code`, and read the facts beside it; `detail` is for people and can change. A code never changes its meaning.
`invalid-request` and `invalid-mechanism` have `field`, and `errors` with one item for each field. `too-large` has
`field` if a cost or a plan takes too much, and `predicted` and `limit` if that is known before it begins. A 503 and a
429 have `Retry-After`; [Limits](../how-to/limits.md) lists what can cause them. After a 5xx, repeat a request for a
run with the same `Idempotency-Key`.

Some facts lead on. `did_you_mean` of `not-found` is the dataset that was probably meant, of those that the key sees.
`next` of `run-state` lists the calls that the run allows now. `run` and `differs` of `idempotency-key-reused` are the
run that the key stands for, and the fields in which the requests differ. `least` of `budget-below-spent` is the least
limit that would be enough. `reason` of `unauthenticated` is there for the holder of a
[key](../how-to/keys.md#when-a-key-is-refused) that ended or a [token](../how-to/tokens.md#when-a-token-is-refused) that
its issuer signed. The command line prints errors in the same words; its [exit status](commands.md) tells kinds of them
apart.

{table(("code", "status", "meaning"), rows)}"""
    for name in STATUS:
        text += f"\n## {code(name)} {{ #{name} }}\n\n{_message(name, classes)}\n\n{_calls(document, name)}"
    return text + _exceptions()


def _message(name: str, classes: Mapping[str, type[LedgerError]]) -> str:
    if name in classes:
        return sentence(inspect.getdoc(classes[name]) or "")
    return {
        "internal": "A fault of the ledger. The log has it under `request_id`; the request can be repeated.",
        "method-not-allowed": "The path has no such method. The header `Allow` lists those it has.",
        "unsupported-media-type": "The body is not `application/json`.",
    }[name]


def _calls(document: Mapping[str, Any], name: str) -> str:
    calls = list(http.calls(document))
    having = [call for call in calls if name in call.facts["x-codes"]]
    keyed = [call for call in calls if "x-roles" in call.facts]
    if len(having) == len(calls):
        return "Every call can return it.\n"
    if having == keyed:
        return "Every call that takes a key can return it.\n"
    if not having:
        return "It is not of a call: no call has this path, method or media type.\n"
    links = (f"[{code(call.name)}](http/{call.group.replace(' ', '-')}.md#{anchor(call.name)})" for call in having)
    return "Returned by " + ", ".join(links) + ".\n"


def _exceptions() -> str:
    lines = "\n".join(f"{'    ' * depth}{error.__name__}" for depth, error in tree())
    return f"""
## Exceptions

The Python client raises these, from `ledger.errors`. `Misconfigured` and `DatabaseUnusable` are of `privacy-ledger
serve`, `init`, `migrate` and `check` alone, and have no HTTP status.

```text
{lines}
```
"""
