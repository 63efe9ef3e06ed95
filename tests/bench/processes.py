"""The cases of `make bench` about processes: memory, start, imports, and what the client adds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ledger.client import Gaussian, Ledger
from ledger.settings import Settings
from tests.bench.cases import ROUNDS, RUNS
from tests.bench.sites import DATASET, RUN, Build, Server
from tests.bench.table import Judgement, Row

_IMPORT = """\
import time
start = time.perf_counter()
import ledger.client
print(time.perf_counter() - start)
"""


def start(settings: Settings, folder: Path, ledger: Server) -> tuple[Row, Row]:
    """From a worker's start to its first answer, and the memory that it has then."""
    begun, memory = Row("start to first answer", " s"), Row("memory of an idle worker", " MB")
    for _ in range(ROUNDS):
        with Build().serve(settings, folder, ledger.target.key) as server:
            begun.values.append(server.start_seconds)
            lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
            resident = next(line for line in lines if line.startswith("VmRSS"))
            memory.values.append(int(resident.split()[1]) / 1000)
    begun.judgements.append(Judgement.at_most(" s", 1.5, begun.median))
    memory.judgements.append(Judgement.at_most(" MB", 100, memory.median))
    return begun, memory


def commands(settings: Settings, folder: Path) -> tuple[Row, Row]:
    """`privacy-ledger --help`, and `import ledger.client` without the start of Python."""
    env = Build().environment(settings)
    shown, imported = Row("`privacy-ledger --help`", " s"), Row("`import ledger.client`", " s")

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout

    for _ in range(ROUNDS):
        begun = time.perf_counter()
        run("-m", "ledger", "--help")
        shown.values.append(time.perf_counter() - begun)
        imported.values.append(float(run("-c", _IMPORT)))
    shown.judgements.append(Judgement.at_most(" s", 0.3, shown.median))
    imported.judgements.append(Judgement.at_most(" s", 0.15, imported.median))
    return shown, imported


def client(server: Server) -> Row:
    """The client's own processor time of one `with ledger.run(…)`, which sends three requests."""
    row = Row(f"the client's processor time of one of {RUNS:,} `ledger.run`", " ms")
    declared: dict[str, Any] = RUN["mechanism"]
    mechanism = Gaussian(noise_multiplier=declared["noise_multiplier"])
    with Ledger(server.target.url, server.target.key) as ledger:
        for part in range(ROUNDS):
            count = (RUNS * (part + 1)) // ROUNDS - (RUNS * part) // ROUNDS
            before = time.process_time()
            for _ in range(count):
                with ledger.run(datasets=[DATASET], mechanism=mechanism):
                    pass
            row.values.append(1000 * (time.process_time() - before) / count)
    row.judgements.append(Judgement.at_most(" ms", 1, row.median))
    return row
