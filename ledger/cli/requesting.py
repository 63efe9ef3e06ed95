"""The command that asks for a run: at once, or until a steward has decided; with the receipt in a file for a job.

A CI job or a cluster interrupts commands and repeats them. The same command with the same key goes on where it was, and
never asks twice.
"""

from __future__ import annotations

import functools
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ledger.cli import show
from ledger.cli.mechanism import option_of, takes_mechanism
from ledger.cli.options import Json, ProjectName, Segments, Share, SizeDiffers, Uses, parse_labels, uses_of
from ledger.cli.secrets import replace_private
from ledger.cli.server_call import after_command, print_answer, server
from ledger.cli.show import console
from ledger.client.files import open_files
from ledger.client.starts import is_unanswered, own_start
from ledger.errors import BudgetExceeded, InvalidRequest, LedgerError, Overloaded, RunState, RunWaits

if TYPE_CHECKING:
    from ledger.client import Ledger

PAUSE_SECONDS_MAX: Final = 30
"""The longest pause between two looks at a run that waits. The first is a second, and each is twice the one before."""
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@takes_mechanism
def request(
    datasets: Uses,
    declared: dict[str, Any],
    purpose: Annotated[str | None, typer.Option(help="What the run is for.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label of the run. Can be repeated.")
    ] = None,
    share: Share = None,
    project: ProjectName = None,
    segments: Segments = None,
    valid_for: Annotated[
        str | None, typer.Option(help="How long the approved run can be started, such as P1D.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--key", help="An idempotency key. The same key and request always get the same answer."),
    ] = None,
    size_differs: SizeDiffers = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="If the run waits for a steward, wait until one has decided. Needs --key: the same command"
            " goes on after an interruption.",
        ),
    ] = False,
    wait_at_most: Annotated[
        str | None, typer.Option(help="With --wait: give up after 90s, 30m, 12h or 1d (the default).")
    ] = None,
    start: Annotated[
        bool, typer.Option("--start", help="Start the run once it is approved, so that its receipt lets one job begin.")
    ] = False,
    receipt: Annotated[
        Path | None,
        typer.Option(
            help="The file for the receipt of an approved run, which only you can read. A file of this name is removed"
            " first: it must not let anything begin."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask for approval of a run, before it uses the data. Exit status 1 if it is refused, 7 if it waits for a
    steward."""
    seconds = _seconds_to_wait(wait_at_most, wait=wait, key=idempotency_key)
    if receipt is not None:
        _remove(receipt)
    with server() as ledger:
        ask = functools.partial(
            ledger.ask,
            datasets=uses_of(datasets),
            mechanism=declared,
            delta=share,
            segments=segments,
            project=project,
            purpose=purpose,
            labels=parse_labels(label),
            valid_for=valid_for,
            idempotency_key=idempotency_key,
            size_differs=size_differs,
        )
        try:
            answer = _decided(ledger, ask, seconds, quiet=as_json) if wait else ask()
        except BudgetExceeded as error:
            if as_json:
                raise
            show.runs.refused(error, suggest=suggestion)
            sys.exit(1)
        shown: Callable[[Any], None] = functools.partial(show.runs.approved, declared=declared)
        if start:
            answer, shown = _started(ledger, answer["id"], receipt), show.runs.started
        if receipt is not None:
            answer |= _written(ledger, answer["id"], receipt)
    print_answer(answer, as_json, shown)
    if receipt is not None and not as_json:
        check = f"Check it: privacy-ledger receipt verify {shlex.quote(str(receipt))} --jwks FILE"
        console.err.print(f"{receipt}: the receipt of run {answer['id']}, {answer['state']}. {check}")


def _written(ledger: Ledger, run: str, receipt: Path) -> dict[str, Any]:
    """Write the receipt of a run as it is now, and return what is new: a repeated answer may have one that has expired,
    or of a run that has ended since. Raises RunState if it has."""
    now = ledger.receipt(run)
    replace_private(receipt, f"{now['receipt']}\n", field="receipt")
    return {"receipt": now["receipt"], "begin_by": now["begin_by"], "state": now["state"], "file": str(receipt)}


def _seconds_to_wait(at_most: str | None, *, wait: bool, key: str | None) -> float:
    """Return how long to wait at most. Raises InvalidRequest."""
    if not wait:
        if at_most is not None:
            raise InvalidRequest("wait_at_most: goes with --wait. Add --wait.", field="wait_at_most")
        return 0
    if key is None:
        raise InvalidRequest(
            "key: --wait needs an idempotency key, so that the same command goes on after an interruption and asks for"
            " no second run. Give one that is new for each run, such as --key train-17",
            field="key",
        )
    given = _DURATION.fullmatch(at_most or "1d")
    if given is None:
        raise InvalidRequest(
            f"wait_at_most: {at_most!r} is no duration. Give seconds, minutes, hours or days: 90s, 30m, 12h or 1d",
            field="wait_at_most",
        )
    return int(given[1]) * _SECONDS[given[2]]


def _remove(receipt: Path) -> None:
    try:
        receipt.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidRequest(f"receipt: {receipt} cannot be replaced: {error.strerror}", field="receipt") from None


def _decided(ledger: Ledger, ask: Callable[[], dict[str, Any]], seconds: float, *, quiet: bool) -> dict[str, Any]:
    """Return the answer to a run once it is decided. A server that does not answer for a while is asked again. Raises
    RunWaits if time is up, and what the decision raises."""
    until = time.monotonic() + seconds
    pauses = _pauses(until)
    waits: RunWaits | None = None
    while True:
        try:
            if waits is None or ledger.run_info(waits.facts["run"])["state"] != "waiting":
                return ask()
        except RunWaits as error:
            if waits is None and not quiet:
                console.error(error)
                console.err.print("Waiting. After an interruption the same command goes on.")
            waits = error
        except LedgerError as error:
            if not isinstance(error, Overloaded) and error.code != "unreachable":
                raise
            if time.monotonic() >= until:
                raise
            if not quiet:
                console.err.print(f"privacy-ledger: {console.visible(error.detail)} Trying again.")
        pause = next(pauses, None)
        if pause is None:
            if waits is None:
                return ask()
            raise waits
        time.sleep(pause)


def _pauses(until: float) -> Iterator[float]:
    """Yield the seconds of each pause, until a time of the monotonic clock."""
    pause = 1.0
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, PAUSE_SECONDS_MAX)


def _started(ledger: Ledger, run: str, receipt: Path | None) -> dict[str, Any]:
    """Start a run, and return the answer. Raises RunState if it was started before: a job may have begun with it."""
    if ledger.run_info(run)["state"] == "started" and not is_unanswered(open_files(), run):
        to = "" if receipt is None else f" --output {shlex.quote(str(receipt))}"
        raise RunState(
            f"Run {run} was started before, and one receipt covers one execution. If a job began with it, ask with a"
            f" new key. If none began, get its receipt: privacy-ledger receipt show {run[:8]}{to}",
            run=run,
            state="started",
        )
    return start_once(ledger, run)


def start_once(ledger: Ledger, run: str) -> dict[str, Any]:
    """Start a run by this command, and return the answer. run: its whole id. Raises RunState if another process started
    it; the same command, after an answer that was lost, gets its own."""
    with own_start(open_files(), run) as token:
        answer: dict[str, Any] = ledger.start(run, token=token)
    return answer


_NOT_ASKED: Final = ("--key", "--solve-for", "--at-most", "--wait-at-most", "--receipt")
"""Options that are left out of a request that is suggested."""


def suggestion(field: str, value: Any) -> str:
    """Return the request to paste: the command that was typed, with one parameter changed so that it fits."""
    before, typed = after_command(sys.argv[1:])
    words = [*before, "request", *(word for word in typed if word not in ("--json", "--wait", "--start"))]
    option = option_of(field)
    kept: list[str] = []
    skip = False
    for word in words:
        # Drop the old value; drop the key, which belongs to the refused request; drop what `request` does not have.
        if skip or word in (option, *_NOT_ASKED):
            skip = not skip
        elif not word.startswith(tuple(f"{name}=" for name in (option, *_NOT_ASKED))):
            kept.append(word)
    if "--mechanism" in kept or any(word.startswith("--mechanism=") for word in kept):
        return f"in --mechanism: {field} {value}"
    return shlex.join(["privacy-ledger", *kept, *option_words(field, value)])


def option_words(field: str, value: Any) -> list[str]:
    """Return the option that sets a field of a mechanism, with its value."""
    return [option_of(field), format(Decimal(repr(value)), "f")]
