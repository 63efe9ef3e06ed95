"""The members of journal entries, from the shapes that the verifier demands."""

from __future__ import annotations

from collections.abc import Mapping

from guide.markdown import codes, table
from ledger.core.journal.shapes import DATASET_KINDS, TENANT_KINDS, Shape


def page() -> str:
    """The page: the kinds of both journals with their members."""
    return f"""# Members of journal entries

The verifier takes an entry only with exactly these members. [The export](export.md) explains what each says, and how
to check it. Every entry also has `v`, `tenant`, `seq`, `at`, `prev`, `kind` and `actor`.

## A dataset's journal

Every entry also has `dataset` and `dataset_id`, and `balance` and `accounts` for the accounts it touches.

{_kinds(DATASET_KINDS)}
## A tenant's own journal

{_kinds(TENANT_KINDS)}"""


def _kinds(kinds: Mapping[str, Shape]) -> str:
    rows = (
        (f"`{kind}`", codes(sorted(shape.required)), codes(sorted(shape.optional))) for kind, shape in kinds.items()
    )
    return table(("kind", "always", "if it applies"), rows)
