"""NVFlare's jobs in its simulator, trained for real on scikit-learn's digits, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.filters.svt_privacy import SVTPrivacy
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector

from ledger.client import Ledger, PlanExceeded
from ledger.client.nvflare import BudgetedFedAvg, NotCovered
from tests.integrations.nvflare.digits_executor import Digits
from tests.integrations.pages import executed

NOISE, CLIP = 1.5, 0.8
JOB = Path(__file__).parent / "job.py"


def registered(ledger: Ledger, adjacency: str = "zero_out", *, epsilon: float = 15, unit: str = "hospital") -> str:
    """The name of a new dataset."""
    name = f"hospitals-{uuid4().hex}"
    budget = {"epsilon": epsilon, "at_delta": 1e-5}
    ledger.register(name=name, privacy_unit=unit, adjacency=adjacency, bound="certified", budget=budget)
    return name


def simulated(folder: Path, dataset: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """A job that has ended, by job.py."""
    controller: dict[str, Any] = {
        "num_clients": 2,
        "num_rounds": 4,
        "population": 3,
        "noise_multiplier": NOISE,
        "clipping_norm": CLIP,
    }
    controller |= {"dataset": dataset, **given.pop("controller", {})}
    argument = json.dumps({"workspace": str(folder), "controller": controller, **given})
    return subprocess.run(
        [sys.executable, JOB, argument], capture_output=True, text=True, timeout=400, check=False, cwd=folder.parent
    )


def noises(folder: Path) -> list[dict[str, float]]:
    """The samples of noise that its server drew."""
    file = folder / "noise.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_job_that_dies_and_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    """Goal: a job whose server is killed in its second round goes on under the same run when it starts again, ends with
    the plan, and its record stays when the workspace is gone; what is asked for is what was executed. Method: count
    draws of noise, and their deviations, where NumPy makes them."""
    dataset, key = registered(ledger), uuid4().hex
    simulated(tmp_path / "first", dataset, dies_at=2, controller={"request_id": key})
    (run,) = ledger.runs(dataset=dataset)
    assert run["state"] == "started"
    again = simulated(tmp_path / "second", dataset, breaks="site-1", controller={"request_id": key})
    assert again.returncode == 0, again.stdout[-2_000:] + again.stderr[-2_000:]
    (run,) = ledger.runs(dataset=dataset)
    assert run["state"] == "settled"
    info = ledger.run_info(run["id"])
    assert info["settled"]["steps"] == 4
    asked = info["request"]["mechanism"]
    assert (asked["type"], asked["sampling"], int(asked["steps"])) == ("dpsgd", "fixed_size", 4)
    assert float(asked["noise_multiplier"]) == NOISE
    assert 2 / 3 <= float(asked["sample_rate"]) < 2 / 3 + 1e-9
    first, second = noises(tmp_path / "first"), noises(tmp_path / "second")
    assert len((tmp_path / "first" / "clients.jsonl").read_text().splitlines()) == 2
    assert len(first) == 1  # the second round was counted, and died before its noise
    assert len(second) == 4 - 2
    for noise in (*first, *second):
        assert noise["scale"] == pytest.approx(NOISE * CLIP)
        assert noise["std"] == pytest.approx(NOISE * CLIP, rel=0.15)
    assert len({noise["first"] for noise in (*first, *second)}) == 3
    (model,) = (tmp_path / "second").rglob("server.npy")
    weights = np.load(model)
    assert np.isfinite(weights).all()
    evidence = info["settled"]["evidence"]["nvflare"]
    assert (evidence["libraries"]["nvflare"], evidence["released"], evidence["resumed"]) == ("2.9.0", 2, True)


def test_a_job_that_does_not_fit(ledger: Ledger, tmp_path: Path) -> None:
    """Goal: a job halts before its first round if the budget does not cover it."""
    dataset = registered(ledger, epsilon=1)
    ended = simulated(tmp_path / "job", dataset, controller={"num_rounds": 50})
    log = ended.stdout + ended.stderr
    assert "Exception in model controller run: BudgetExceeded" in log
    assert not (tmp_path / "job" / "clients.jsonl").exists()
    assert noises(tmp_path / "job") == []
    assert [run["state"] for run in ledger.runs(dataset=dataset)] == ["refused"]


@pytest.fixture
def begun(ledger: Ledger) -> Any:
    """A function that makes a controller whose run is asked for, beside an engine with this many clients."""
    made: list[BudgetedFedAvg] = []

    def begin(
        adjacency: str = "zero_out", *, connected: int = 5, unit: str = "hospital", **given: Any
    ) -> BudgetedFedAvg:
        arguments = {"num_clients": 2, "num_rounds": 3, "noise_multiplier": NOISE, "clipping_norm": CLIP}
        controller = BudgetedFedAvg(**{**arguments, "dataset": registered(ledger, adjacency, unit=unit), **given})
        clients = [SimpleNamespace(name=f"site-{number}") for number in range(connected)]
        controller.engine = SimpleNamespace(get_clients=lambda: clients, run_manager=SimpleNamespace(components={}))
        controller.fl_ctx = FLContext()
        controller._demand_controller()
        controller._ask()
        made.append(controller)
        return controller

    yield begin
    for controller in made:
        assert controller._training is not None
        controller._training.finish()


def sent(controller: BudgetedFedAvg) -> None:
    """Keep a model of zeros as the one that was sent."""
    controller._sent = {"numpy_key": np.zeros((3, 2), dtype=np.float32)}
    controller._sum = {"numpy_key": np.zeros((3, 2))}
    controller._seen, controller._wrong, controller._received_count, controller._expected_count = set(), None, 0, 2
    controller.current_round, controller._is_released = 0, False


def reply(client: str, values: Any, kind: ParamsType = ParamsType.FULL, steps: int = 1) -> FLModel:
    """What a client returns."""
    params = {"numpy_key": np.asarray(values)}
    return FLModel(params=params, params_type=kind, meta={"client_name": client, "NUM_STEPS_CURRENT_ROUND": steps})


def test_updates_are_bounded(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: each client adds at most the clip norm over the number of clients, whatever it returns and however many
    steps it states, and once; NaN adds nothing. Method: without noise, the mean is that of the clipped updates."""
    controller = begun()
    zero = SimpleNamespace(normal=lambda _loc, _scale, size: np.zeros(size))
    monkeypatch.setattr(np.random, "default_rng", lambda: zero)
    huge, small = np.full((3, 2), 1e200), np.full((3, 2), 0.01)
    for first, expected in ((huge, CLIP / np.sqrt(6)), (np.full((3, 2), np.nan), 0), (np.full((3, 2), np.inf), 0)):
        sent(controller)
        assert controller._aggregate_one_result(reply("site-1", first, steps=10_000))
        assert not controller._aggregate_one_result(reply("site-1", first))
        assert controller._aggregate_one_result(reply("site-2", small, ParamsType.DIFF))
        released = controller._get_aggregated_result()
        assert released.params_type == ParamsType.DIFF
        assert np.allclose(released.params["numpy_key"], (expected + 0.01) / 2)
        assert released.metrics is None
        assert not controller._get_aggregated_result().params["numpy_key"].any()  # one release for each round
    controller._training.run.step(3)


def test_missing_and_wrong_clients(begun: Any) -> None:
    """Goal: with a client missing nothing is released; other arrays than were sent end the job."""
    controller = begun()
    sent(controller)
    controller._rounds.step()
    controller._aggregate_one_result(reply("site-1", np.ones((3, 2))))
    assert not controller._get_aggregated_result().params["numpy_key"].any()
    assert (controller._training.noised, controller._training.skipped) == (0, 1)
    controller._aggregate_one_result(reply("site-2", np.ones(4)))
    with pytest.raises(NotCovered, match="other arrays"):
        controller._get_aggregated_result()
    integers = FLModel(params={"numpy_key": np.zeros(3, dtype=np.int64)}, params_type=ParamsType.FULL)
    with pytest.raises(NotCovered, match="float32"):
        controller.send_model(data=integers)


def test_rounds_are_counted_and_drawn(begun: Any) -> None:
    """Goal: a round is counted when its clients are drawn, not beyond the plan, and from enough clients."""
    controller = begun(population=5)
    drawn = {tuple(sorted(controller.sample_clients(2))) for _ in range(3)}
    assert all(len(set(clients)) == 2 for clients in drawn)
    with pytest.raises(PlanExceeded):
        controller.sample_clients(2)
    with pytest.raises(NotCovered, match="population of 6"):
        begun(population=6).sample_clients(2)
    with pytest.raises(NotCovered, match="Wait for more"):
        begun(connected=1).sample_clients(2)


@pytest.mark.parametrize(
    ("adjacency", "unit", "noise"),
    [
        ("zero_out", "hospital", NOISE),
        ("zero_out", "record", NOISE / 2),
        ("replace_one", "hospital", NOISE / 2),
        ("add_or_remove_one", "hospital", NOISE / 2),
    ],
)
def test_sensitivities(begun: Any, adjacency: str, unit: str, noise: float) -> None:
    """Goal: without a population a round is a Gaussian release over its real sensitivity."""
    mechanism = begun(adjacency, unit=unit)._training.mechanism
    assert (mechanism.type, mechanism.count, float(mechanism.noise_multiplier)) == ("gaussian", 3, noise)


def test_refused_options(begun: Any) -> None:
    """Goal: what has no bound, or chooses without noise, is refused with what to do."""
    for given, text in (
        ({"stop_cond": "accuracy >= 80"}, "metrics of clients have no noise"),
        ({"aggregation_weights": {"site-1": 10.0}}, "equal weights"),
        ({"exclude_vars": "bias"}, "released, with noise"),
        ({"noise_multiplier": 0.0}, "adds no noise"),
        ({"clipping_norm": float("inf")}, "bounds nothing"),
    ):
        with pytest.raises(NotCovered, match=text):
            begun(**given)
    controller = begun()
    controller.engine.run_manager.components["selector"] = IntimeModelSelector()
    with pytest.raises(NotCovered, match="IntimeModelSelector"):
        controller._demand_controller()


def message(values: Any) -> Any:
    """A message as filters get it."""
    dxo = DXO(data_kind=DataKind.WEIGHT_DIFF, data={"w": np.array(values)}, meta={"NUM_STEPS_CURRENT_ROUND": 1})
    shareable = Shareable()
    shareable.set_header(AppConstants.CURRENT_ROUND, 0)
    return dxo, shareable


def test_what_the_filters_of_nvflare_cost() -> None:
    """Goal: keep in mind why no filter is taken for a mechanism: SVTPrivacy states 0.1 and counts 10.1 for the message,
    and PercentilePrivacy is not random."""
    dxo, shareable = message(np.linspace(-1e-4, 1e-4, 1_000))
    svt = SVTPrivacy().process_dxo(dxo, shareable, FLContext())
    assert svt is not None
    assert svt.get_meta_prop("svt_privacy_budget")["epsilon_total"] == pytest.approx(10.1)
    outputs = []
    for _ in range(2):
        dxo, shareable = message(np.linspace(-0.1, 0.1, 1_000))
        filtered = PercentilePrivacy().process_dxo(dxo, shareable, FLContext())
        assert filtered is not None
        outputs.append(filtered.data["w"])
    assert np.array_equal(*outputs)


def test_the_page(tmp_path: Path) -> None:
    """Goal: the job of the page can be made, and NVFlare writes the controller with its arguments into it."""
    given = {"first_model": np.zeros((64, 10)).tolist, "my_executor": Digits()}
    names = executed("nvflare.md", dataset="hospitals", name="hospitals", given=given)
    names["job"].export_job(str(tmp_path))
    (file,) = tmp_path.rglob("config_fed_server.json")
    (workflow,) = json.loads(file.read_text())["workflows"]
    assert workflow["path"] == "ledger.client.nvflare.BudgetedFedAvg"
    assert workflow["args"]["noise_multiplier"] == 3.0
    assert (workflow["args"]["population"], workflow["args"]["num_rounds"]) == (100, 50)
