"""The quick way to canonical JSON gives the same bytes as the other one, wherever it may be taken."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ledger.canonical import canonical, canonical_plain

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
@example({"\U0001f4a3": 1, "\uffff": 2, "\x7f": 3, "\u2028": '\\"/\b\f\n\r\t\x00\x1f'})
@example((True, -0, 10**400))
def test_the_quick_way_writes_the_same(value: Any) -> None:
    """Goal: what is sealed and signed has one form. Method: any value without fractions, by both ways."""
    assert canonical_plain(value) == canonical(value)
