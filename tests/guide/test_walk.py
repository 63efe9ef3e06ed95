"""How examples are read from a page, compared, and written into it."""

from __future__ import annotations

import pytest

from tests.kit.walk import Example, examples, holds, with_printed

PAGE = """# A page

```console
$ one --a 1
first
second
$ two
```

```python
print(3)
```
```text
old
```

```sh
not an example
```
"""


def test_examples_in_their_order() -> None:
    """Goal: each command has what stands under it, a snippet the block of text after it, and nothing else is one."""
    assert examples(PAGE) == [
        Example(False, "one --a 1", "first\nsecond\n"),
        Example(False, "two", ""),
        Example(True, "print(3)\n", "old\n"),
    ]


@pytest.mark.parametrize(
    ("wanted", "printed", "is_same"),
    [
        ("a  b\n", "a b", True),
        ("run …\n", "run 3\nand more", True),
        ("run …\nend\n", "run 3\nend", True),
        ("run …\nend\n", "run 3\nend.", False),
        ("a.c", "abc", False),
        ("", "", True),
        ("", "more", False),
    ],
)
def test_what_differs_each_time_is_left_out(wanted: str, printed: str, is_same: bool) -> None:
    """Goal: spaces that lay out a table do not count, … stands for anything, and all else is compared."""
    assert holds(wanted, printed) is is_same


def test_what_is_printed_by_now_is_written() -> None:
    """Goal: after a change of a message, pages need no hand. Method: new output for a command and a snippet, with an
    id and a time in it; the page then holds, and is otherwise as it was."""
    one, _, three = examples(PAGE)
    printed = "run 01234567-89ab-cdef-0123-456789abcdef\nat 2026-11-29T03:05:33.652000Z\n"
    page = with_printed(with_printed(PAGE, one, printed), three, "4\n")
    assert page == PAGE.replace("first\nsecond\n", "run …\nat …\n").replace("old\n", "4\n")
    assert [holds(example.printed, now) for example, now in zip(examples(page), (printed, "", "4"), strict=True)] == [
        True
    ] * 3
