"""Starts `python -m ledger …` at once: forks of a process that has imported the modules that it is told.

    python -m tests.torture.faults.starter MODULE…

A line of JSON on its input names arguments, environment and a file for the output; the line that it prints has the
process. It imports nothing by itself, and ends with its input.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any


def main() -> None:
    """Fork for each line."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    # Not an iterator: what that has read ahead would be read again in the child.
    while line := os.read(0, 1 << 20):
        for one in line.splitlines():
            _fork(json.loads(one))


def _fork(told: dict[str, Any]) -> None:
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["env"])
    sys.argv = told["command"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    os._exit(0)


if __name__ == "__main__":
    main()
