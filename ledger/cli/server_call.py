"""Call the server, and print its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ledger.cli import show
from ledger.cli.show import console
from ledger.profiles import connection

if TYPE_CHECKING:
    from ledger.client import Ledger


@contextmanager
def server() -> Iterator[Ledger]:
    """Open the ledger that the command line, the environment or a profile names."""
    from ledger.client import Ledger

    chosen = connection()
    # A person waits, and can repeat the command; a training job has more patience.
    with Ledger(chosen.url, chosen.key, retries=2) as ledger:
        yield ledger


class Listed(list[Any]):
    """The first items of a list. `more`: whether it has others."""

    def __init__(self, items: Iterable[Any], *, more: bool = False) -> None:
        super().__init__(items)
        self.more = more


def first(items: Iterable[Any], limit: int) -> Listed:
    """Return the first items of a list, and whether there are more: one more is read to know it."""
    read = list(islice(items, limit + 1))
    return Listed(read[:limit], more=len(read) > limit)


def print_answer(answer: Any, as_json: bool, show_answer: Callable[[Any], None]) -> None:
    """Print an answer as JSON for scripts, or as `show_answer` prints it for a person.

    A list is printed as an object with its `items` and whether there are `more`.
    """
    more = isinstance(answer, Listed) and answer.more
    if as_json:
        console.print_json({"items": answer, "more": more} if isinstance(answer, list) else answer)
        return
    show_answer(console.in_one_line(answer))
    if more:
        console.err.print(f"These are {len(answer)}, and there are more. List more of them: --limit {2 * len(answer)}")


def unless_proposed(show_answer: Callable[[Any], None]) -> Callable[[Any], None]:
    """Show what was done, or what was only proposed if the tenant's policy asks for a second steward."""
    return lambda answer: show.people.proposed(answer["proposal"]) if "proposal" in answer else show_answer(answer)


_WITH_VALUE: Final = ("--profile", "--url", "--key-file")


def after_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before the command, which are options of all commands, and those after it."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in _WITH_VALUE else 1
    return list(words[:index]), list(words[index + 1 :])
