"""Past runs, read from where they are known."""

from __future__ import annotations

import math
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from ledger.client import past
from ledger.errors import InvalidRequest


def test_adaptive_clipping_before_1_6_had_less_noise_than_its_history() -> None:
    """Goal: the noise of gradients and count together, never more. Method: the optimizer of 1.5.4 replaced the noise
    z by (z^-2 - (2 s)^-2)^-1/2; from that the noise z comes back, at random, rounded down by a billionth at most."""
    rng, run, spread = random.Random(3), dict[str, Any](), 0.0
    for _ in range(200):
        spread = rng.uniform(1, 20)
        noise = rng.uniform(0.1, 1.9 * spread)
        recorded = (noise**-2 - (2 * spread) ** -2) ** -0.5
        run = past.from_opacus(
            [(recorded, 0.01, 7)], version="1.5.4", sampling="poisson", adaptive_clipping=True, unclipped_num_std=spread
        )
        read = run["mechanism"]["noise_multiplier"]
        assert read == pytest.approx(noise, rel=1e-9)
        assert read <= noise * (1 + 1e-12)
    assert run["evidence"]["options"] == {"adaptive_clipping": True, "unclipped_num_std": spread}


@pytest.mark.parametrize("version", ["1.6.0", "1.6", "2.0.1"])
def test_since_1_6_a_history_means_what_it_has(version: str) -> None:
    """Goal: nothing is asked that decides nothing. Method: phases that follow each other with equal noise are one."""
    history = [(1.0, 0.01, 5), (1.0, 0.01, 5), (1.5, 0.01, 3)]
    run = past.from_opacus(history, version=version, sampling="poisson")
    assert run["mechanism"] == {
        "type": "dpsgd_schedule",
        "phases": [
            {"noise_multiplier": 1.0, "sample_rate": 0.01, "steps": 10},
            {"noise_multiplier": 1.5, "sample_rate": 0.01, "steps": 3},
        ],
        "sampling": "poisson",
    }
    assert (run["library"], run["version"]) == ("opacus", version)


@pytest.mark.parametrize("entry", [[1.0, 0.1], [0, 0.1, 3], ["1", 0.1, 3], [1.0, 0.1, 2.5], 7, [math.nan, 0.1, 3]])
def test_a_wrong_history_is_refused(entry: Any) -> None:
    """Goal: what no accountant writes is named by its phase."""
    with pytest.raises(InvalidRequest, match=r"history\.1"):
        past.from_opacus([entry], version="1.6.0", sampling="poisson")


class Harmful:
    """What a file would run if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """Goal: a file of a stranger is read for its numbers alone. Method: one that torch saved, and one that would make a
    file, which it does if it is unpickled."""
    torch = pytest.importorskip("torch")
    good, bad, mark = tmp_path / "good.pt", tmp_path / "bad.pt", tmp_path / "mark"
    state = {"privacy_accountant_state_dict": {"history": [(1.1, 0.01, 9)], "mechanism": "rdp"}}
    torch.save({**state, "module_state_dict": {"w": torch.zeros(3)}}, good)
    assert past.history_in(good) == [(1.1, 0.01, 9)]
    torch.save({**state, "more": Harmful(mark)}, bad)
    with pytest.raises(InvalidRequest, match="without running code"):
        past.history_in(bad)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Harmful(mark)))  # noqa: S301 (our own, to show that it would)
    assert mark.exists()


@pytest.mark.parametrize("text", ["{}", "[]", '{"history": []}', '{"history": 3}', "{x"])
def test_a_file_without_a_history_is_refused(tmp_path: Path, text: str) -> None:
    """Goal: the message names the file."""
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=r"state\.json"):
        past.history_in(file)


def test_statements() -> None:
    """Goal: without delta a statement is pure."""
    assert past.from_statement(epsilon=1)["mechanism"] == {"type": "pure_dp", "epsilon": 1}
    both = past.from_statement(epsilon=1, delta=1e-6)["mechanism"]
    assert both == {"type": "approximate_dp", "epsilon": 1, "delta": 1e-6}
