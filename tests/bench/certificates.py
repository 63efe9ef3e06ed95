"""Certified costs beside what they are compared with, in one run: a part of `make bench`.

Compared are a certificate and its epsilon at 1e-5 with the same epsilon by dp-accounting's privacy loss distribution,
on one core and in turns; a table of residual costs, cold and with its curve kept, with one such epsilon by
dp-accounting and by prv-accountant; and epsilon of mu-GDP, scalar and vectorised, with Opacus's `eps_from_mu`. The
memory of the dearest certificates is that of a process of their own. Figures are for reading, never a test.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

from ledger.accounting import budgets, certificate, gdp, mechanisms, residual
from ledger.accounting.terms import Terms
from ledger.core.residual import levels as grid
from tests.kit import certified

ROUNDS = int(os.environ.get("LEDGER_BENCH_ROUNDS", "5"))
SHARE = 1e-8
AT_DELTA = 1e-5
INTERVAL = 1e-4
GOAL_MS, GOAL_RATIO, GOAL_MB = 10, 30, 500
GOAL_TABLE_MS = 60
_CASES = Path(__file__).parents[1] / "cases" / "dpsgd_certificates.json"
# `make bench PARTS=certificates` puts it there; the file needs NumPy and SciPy alone, so it comes without PyTorch.
_OPACUS = Path(__file__).parents[2] / "build" / "bench" / "opacus" / "accountants" / "analysis" / "gdp.py"
# (noise multiplier, sample rate, steps, delta, adjacency, sampling)
_DEAREST: tuple[tuple[float, float, int, float, str, str], ...] = (
    (0.5, 1e-6, 1_000_000, 1e-8, "add_or_remove_one", "poisson"),
    (0.5, 1e-6, 1_000_000, 1e-15, "add_or_remove_one", "poisson"),
    (0.3, 1e-6, 1_000_000, 1e-10, "add_or_remove_one", "poisson"),
    (0.5, 1e-6, 1_000_000, 1e-8, "replace_one", "poisson"),
    (1.0, 1e-6, 1_000_000, 1e-8, "replace_one", "fixed_size"),
    (0.5, 0.0043, 23_437, 1e-8, "add_or_remove_one", "poisson"),
)
_PEAK = """\
import json, pathlib, resource, sys, time
from tests.kit import certified
names = ("noise_multiplier", "sample_rate", "steps", "delta", "adjacency", "sampling")
argument, start = json.loads(sys.argv[1]), time.perf_counter()
mu = certified.subsampled_gaussian(**dict(zip(names, argument))).mu if argument else 0.0
took = time.perf_counter() - start
status = pathlib.Path("/proc/self/status")
# The high-water mark of getrusage is inherited from the process that started this one.
lines = status.read_text().splitlines() if status.exists() else []
peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print(peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 1000 * took, mu)
"""


def _ms(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - start)


def _certified(run: dict[str, Any]) -> float:
    found = certified.subsampled_gaussian(
        noise_multiplier=run["noise_multiplier"], sample_rate=run["sample_rate"], steps=run["steps"], delta=SHARE
    )
    return float(gdp.epsilon(mu=found.mu, delta=found.delta, at_delta=AT_DELTA))


def _dp_accounting(run: dict[str, Any]) -> float:
    step = privacy_loss_distribution.from_gaussian_mechanism(
        run["noise_multiplier"], sampling_prob=run["sample_rate"], value_discretization_interval=INTERVAL
    )
    return float(step.self_compose(run["steps"]).get_epsilon_for_delta(AT_DELTA))


def compare_certificates() -> None:
    """Prints milliseconds and epsilon of each reference run, by both."""
    print(f"\nepsilon at {AT_DELTA} on one core, median ms of {ROUNDS}: by a certificate of delta {SHARE}, by another")
    print(f"{'':20}{'certificate':>14}{'dp-accounting':>16}{'ratio':>8}{'epsilon':>12}{'dp-accounting':>16}")
    ours, theirs = [], []
    for run in json.loads(_CASES.read_text(encoding="utf-8"))["runs"]:
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            times[0].append(_ms(_certified, run))
            times[1].append(_ms(_dp_accounting, run))
        ours.append(statistics.median(times[0]))
        theirs.append(statistics.median(times[1]))
        ratio = theirs[-1] / ours[-1]
        shown = f"{run['name']:20}{ours[-1]:>14.2f}{theirs[-1]:>16.1f}{ratio:>8.1f}"
        print(f"{shown}{_certified(run):>12.4f}{_dp_accounting(run):>16.4f}")
    mine, other = statistics.median(ours), statistics.median(theirs)
    ratios = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(f"{'median':20}{mine:>14.2f}{other:>16.1f}{other / mine:>8.1f}   (median of the ratios {ratios:.1f})")
    print(f"wanted: at most {GOAL_MS} ms, and at least {GOAL_RATIO} times faster")


def _prv(run: dict[str, Any]) -> float:
    mechanism = PoissonSubsampledGaussianMechanism(run["sample_rate"], run["noise_multiplier"])
    accountant = PRVAccountant(
        prvs=[mechanism], max_self_compositions=[run["steps"]], eps_error=0.05, delta_error=AT_DELTA / 1000
    )
    return float(accountant.compute_epsilon(AT_DELTA, [run["steps"]])[1])


def compare_tables() -> None:
    """Prints processor milliseconds of a table of residual costs beside one epsilon by others."""
    limit = budgets.limit_of(budgets.EpsilonBudget(epsilon=Decimal(8), at_delta=Decimal("1e-5")), bound="certified")
    levels = grid(limit.mu_sq_pico)
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8"))
    print(f"\na table of {len(levels)} residual costs under epsilon 8, median processor ms of {ROUNDS}")
    print(f"{'':20}{'cold':>14}{'curve kept':>14}{'remembered':>14}{'dp-accounting':>16}{'prv-accountant':>16}")
    columns: list[list[float]] = [[], [], [], [], []]
    for run in json.loads(_CASES.read_text(encoding="utf-8"))["runs"]:
        declared = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": Decimal(str(run["noise_multiplier"]))}
        rate = Decimal(f"{run['sample_rate']:.12g}")
        mechanism = mechanisms.parse({**declared, "sample_rate": rate, "steps": run["steps"]})
        remembered = functools.cache(lambda at, of=mechanism: residual.residual_costs(of, terms, at))
        times: list[list[float]] = [[], [], [], [], []]
        for _ in range(ROUNDS):
            times[0].append(_cpu_ms(residual.residual_costs, mechanism, terms, levels))
            with certificate.keeping_here():
                remembered.cache_clear()
                remembered(levels)
                times[1].append(_cpu_ms(residual.residual_costs, mechanism, terms, levels))
            times[2].append(_cpu_ms(remembered, levels))
            times[3].append(_cpu_ms(_dp_accounting, run))
            times[4].append(_cpu_ms(_prv, run))
        medians = [statistics.median(found) for found in times]
        print(
            f"{run['name']:20}" + "".join(f"{ms:>{w}.2f}" for ms, w in zip(medians, (14, 14, 14, 16, 16), strict=True))
        )
        for column, ms in zip(columns, medians, strict=True):
            column.append(ms)
    print(f"{'median':20}" + "".join(f"{statistics.median(column):>14.2f}" for column in columns[:3]))
    print(f"wanted: at most {GOAL_TABLE_MS} ms cold, and well under 1 ms remembered")


def _cpu_ms(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    call(*arguments)
    return 1000 * (time.process_time() - start)


def _opacus() -> Callable[..., float] | None:
    if not _OPACUS.is_file():
        return None
    spec = importlib.util.spec_from_file_location("opacus_gdp", _OPACUS)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., float] = module.eps_from_mu
    return found


def compare_epsilon() -> None:
    """Prints microseconds of one epsilon from mu: ours as scalars and vectorised, and Opacus's."""
    many = np.geomspace(0.05, 20, 2_000)
    times: dict[str, list[float]] = {}
    opacus = _opacus()
    for _ in range(ROUNDS):
        per_value = 1000 / many.size
        ours = _ms(lambda: [gdp.epsilon(mu=float(mu), delta=0.0, at_delta=AT_DELTA) for mu in many])
        times.setdefault("the ledger, scalars", []).append(ours * per_value)
        vector = _ms(lambda: gdp.epsilon(mu=many, delta=0.0, at_delta=AT_DELTA))
        times.setdefault("the ledger, an array", []).append(vector * per_value)
        if opacus is not None:
            theirs = _ms(lambda: [opacus(mu=float(mu), delta=AT_DELTA) for mu in many])
            times.setdefault("Opacus, scalars", []).append(theirs * per_value)
    print(f"\nepsilon at {AT_DELTA} from mu in 0.05 to 20, microseconds each, median of {ROUNDS}")
    for name, found in times.items():
        print(f"{name:24}{statistics.median(found):>10.2f}")
    if opacus is None:
        print(f"Opacus could not be had: {_OPACUS} is missing, which `make bench PARTS=certificates` fetches")
        return
    slower = statistics.median(times["Opacus, scalars"])
    for name in ("the ledger, scalars", "the ledger, an array"):
        print(f"{name} beside Opacus: {slower / statistics.median(times[name]):.1f} times faster")


def _peak(argument: list[Any]) -> tuple[float, float, float]:
    """MB of a process that makes this certificate, its milliseconds, and mu; of one that makes none, without."""
    words = [sys.executable, "-c", _PEAK, json.dumps(argument)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return int(told[0]) / 1000, float(told[1]), float(told[2])


def show_memory() -> None:
    """Prints the peak memory of the dearest certificates, the interpreter and its libraries included."""
    print(f"\npeak memory of a process with one of the dearest certificates, MB (wanted: below {GOAL_MB}); ms; mu")
    print(f"{'imports alone':82}{_peak([])[0]:>6.0f}")
    for argument in _DEAREST:
        noise, rate, steps, delta, adjacency, sampling = argument
        name = f"s={noise} q={rate} T={steps:.0e} delta={delta} {adjacency} {sampling}"
        megabytes, took, mu = _peak(list(argument))
        print(f"{name:82}{megabytes:>6.0f}{took:>9.0f}   {mu:.5g}")


def main() -> None:
    """Measures on one core where the system lets a process be held there."""
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(allowed)})
    compare_certificates()
    compare_tables()
    compare_epsilon()
    show_memory()


if __name__ == "__main__":
    main()
