"""What the command line prints about sizes and batches."""

from __future__ import annotations

import re

from tests.kit.driver import Terminal

ASSUMED = "assumes Poisson sampling"
TRAINING = "--noise-multiplier 8 --batch-size 300 --epochs 1"


def test_the_command_line_prints_batch_assumption_and_warnings(terminal: Terminal) -> None:
    """Goal: request, plan and evaluate print the expected batch, the assumption each time Poisson batches are declared,
    and warnings; a size that differs needs a reason, which `run show` has; no epsilon is a bare infinity. Method: each
    command, on one dataset."""
    terminal("dataset create reviews --mu 3 --delta 1e-6 --size 60000 --bound clt")
    approved = terminal(f"request reviews {TRAINING}")
    assert approved.status == 0, approved.err
    assert re.search(r"batch +300 of 60,000 units on average", approved.out)
    again = terminal(f"plan reviews {TRAINING} --sampling poisson")
    evaluated = terminal(f"evaluate {TRAINING} --dataset-size 60000 --bound clt")
    for printed in (approved, again, evaluated):
        assert ASSUMED in printed.out
        assert "--sampling shuffle" in printed.out
    for other in (
        f"request reviews {TRAINING} --sampling shuffle",
        "plan reviews --type gaussian --noise-multiplier 9",
    ):
        assert ASSUMED not in terminal(other).out
    assert "each unit is in a batch" in terminal(f"request reviews {TRAINING} --json").json["assumptions"][-1]
    beyond = terminal(f"request reviews {TRAINING} --dataset-size 6000000")
    assert (beyond.status, "60000" in beyond.err, "size_differs" in beyond.err) == (2, True, True)
    explained = terminal(f"request reviews {TRAINING} --dataset-size 6000000 --size-differs 'a copy' --json").json["id"]
    assert re.search(r"size differs +a copy", terminal(f"run show {explained}").out)
    warned = terminal("plan reviews --noise-multiplier 30 --sample-rate 0.4 --steps 2")
    assert "warning: mechanism.sample_rate: each batch has 40 %" in warned.out
    share = terminal("evaluate --type approximate_dp --mechanism-epsilon 1 --mechanism-delta 1e-8 --at-delta 1e-9")
    assert "∞" not in share.out
    assert re.search(r"epsilon at 1e-09 +none: The run's own delta, 1e-08, is not below 1e-09", share.out)
