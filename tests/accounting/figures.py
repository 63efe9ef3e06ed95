"""The table of docs/explanation/accounting.md: `python -m tests.accounting.figures` prints it, and a test compares."""

from __future__ import annotations

import json
from pathlib import Path

from ledger.accounting import gdp
from tests.kit import certified

CASES = Path(__file__).parents[1] / "cases" / "dpsgd_certificates.json"
SHOWN = ("mnist1.3/15", "mnist1.1/60", "mnist0.7/45", "adult0.55/18", "q.01 s1 T1e4", "imagenet q.328 s9.4")


def table() -> str:
    """A line for each run: its certificate at delta 1e-8, and epsilon at 1e-5 by it, by the exact composition and by
    the central-limit estimate."""
    lines = [
        "| noise multiplier | sample rate | steps | mu at delta 1e-8 | epsilon at 1e-5 | exact composition | clt |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in json.loads(CASES.read_text(encoding="utf-8"))["runs"]:
        if run["name"] in SHOWN:
            found = certified.subsampled_gaussian(
                noise_multiplier=run["noise_multiplier"],
                sample_rate=run["sample_rate"],
                steps=run["steps"],
                delta=1e-8,
            )
            epsilon = float(gdp.epsilon_upper(mu=found.mu, delta=found.delta, at_delta=1e-5))
            lines.append(
                f"| {run['noise_multiplier']} | {run['sample_rate']:.6g} | {run['steps']:,} | {found.mu:.3f} | "
                f"{epsilon:.2f} | {run['epsilon_pld']:.2f} | {run['epsilon_clt_poisson']:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
