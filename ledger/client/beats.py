"""Heartbeats: a job reports how far it has come, now and then and in the background, so that one that dies leaves
evidence. Nothing that goes wrong there reaches the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from ledger.client.calls import Call, report_progress
from ledger.client.flows import log

EVERY_SECONDS: Final = 30.0

Send = Callable[[Call], object]
"""Sends a call once, from another thread. It may raise anything."""


class Beats:
    """Reports the steps of a run, at most once in EVERY_SECONDS, until `close` is called."""

    def __init__(self, run: str, steps: Callable[[], int], send_call: Send, *, reporter: str | None) -> None:
        self._run, self._steps, self._send, self._reporter = run, steps, send_call, reporter
        self._is_over = threading.Event()
        threading.Thread(target=self._beat, name=f"progress of run {run}", daemon=True).start()

    def _beat(self) -> None:
        while not self._is_over.wait(EVERY_SECONDS):
            try:
                self._send(report_progress(self._run, steps=self._steps(), reporter=self._reporter))
            except Exception as error:  # whatever it is, the training goes on
                log.debug("The progress of run %s was not reported: %s", self._run, error)

    def close(self) -> None:
        """End, without waiting for a report that is under way."""
        self._is_over.set()
