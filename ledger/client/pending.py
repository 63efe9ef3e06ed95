"""Settlements that could not be sent: they are kept on disk, and sent later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ledger.client.calls import Call, path
from ledger.client.errors import Overrun
from ledger.client.files import Files
from ledger.client.flows import Flow, Server, answered, log
from ledger.errors import LedgerError, RunState

AT_ONCE_MAX: Final = 20
"""How many are sent when a run is begun. `privacy-ledger settle --pending` sends all."""


def keep(files: Files | None, url: str, run: str, call: Call) -> bool:
    """Keep the settlement of a run, and return whether it is on disk."""
    if files is None:
        return False
    try:
        files.write(_name(run), {"url": url, "run": run, "settlement": (call.content or b"{}").decode()})
    except OSError as error:
        log.warning("The settlement of run %s cannot be kept on disk: %s", run, error)
        return False
    return True


def is_kept(files: Files | None, run: str) -> bool:
    """Return whether the settlement of a run waits here."""
    return files is not None and files.read(_name(run)) is not None


def _name(run: str) -> str:
    return f"pending/{run}.json"


def send_kept(files: Files | None, server: Server, *, limit: int | None = AT_ONCE_MAX) -> Flow[dict[str, Any]]:
    """Send the settlements that wait for this ledger, each once, until it does not answer. limit: how many are tried;
    those that fail are last the next time, so that the others have their turn.

    Return those that were sent, each `{"run", "outcome"}`, and the runs of those that wait: `{"sent", "waiting"}`.
    Nothing is raised.
    """
    sent: list[dict[str, Any]] = []
    waiting: list[str] = []
    once, is_gone = replace(server, retries=0), False
    tried = 0
    for name in () if files is None else files.names("pending"):
        if tried == limit:
            break
        kept = None if files is None else files.read(name)
        if files is None or kept is None or kept.get("url") != server.url:
            continue
        if not (isinstance(kept.get("run"), str) and isinstance(kept.get("settlement"), str)):
            log.warning("%s has no settlement of a run, and is left as it is.", files.folder / name)
            continue
        if is_gone:
            waiting.append(kept["run"])
            continue
        tried += 1
        try:
            outcome = yield from _send(kept["run"], kept["settlement"].encode(), once)
        except LedgerError as error:
            log.warning("The settlement of run %s still waits: %s", kept["run"], error)
            waiting.append(kept["run"])
            is_gone = error.code == "unreachable"
            if not is_gone:
                files.put_last(name)
            continue
        files.remove(name)
        log.warning("The settlement of run %s, which was kept on disk, was sent: %s", kept["run"], outcome)
        sent.append({"run": kept["run"], "outcome": outcome})
    return {"sent": sent, "waiting": waiting}


def _send(run: str, content: bytes, server: Server) -> Flow[str]:
    call = Call(
        "POST",
        path("runs", run, "settle"),
        is_repeatable=True,
        headers={"Content-Type": "application/json"},
        content=content,
    )
    try:
        answer = yield from answered(call, server)
    except Overrun as error:
        return f"an overrun. {error}"
    except RunState as error:
        if error.facts.get("state") not in ("settled", "voided"):
            raise
        return (
            f"it was {error.facts['state']} before, with another number or for nothing, and this one is not charged. If"
            f" it is the right one, tell a steward: {content.decode()}"
        )
    return f"settled, charged mu {answer['charged']['mu']:.6g}"
