"""NVFlare: a FedAvg controller with noise for its clients, whose rounds are approved before the first is sent.

    from ledger.client.nvflare import BudgetedFedAvg

    job.to_server(
        BudgetedFedAvg(
            num_clients=20, num_rounds=50, dataset="hospitals", noise_multiplier=3.0, clipping_norm=0.5, population=100
        )
    )

NVFlare has filters for one message, and no accounting of rounds. So this controller clips the updates, adds them up
with equal weights, and adds the noise, on the server. The job ends with an error before it sends anything if the run
does not fit; what was executed stays in the ledger when the job and its workspace are gone.

It needs NVFlare 2.9 on the server: `pip install 'privacy-ledger[nvflare]'`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector
from nvflare.app_common.workflows.fedavg import FedAvg

from ledger.client.attached import NotCovered, demand_version, rounded_down, whole
from ledger.client.federated import Rounds, round_mechanism
from ledger.client.runs import Run

VERSION: Final = "2.9"
SIMULATED: Final = "simulate_job"
"""The id of every job of the simulator, which identifies none."""
RULED_OUT: Final = ("nvflare-percentile-no-noise", "nvflare-svt-epsilon")

__all__ = ["BudgetedFedAvg", "NotCovered"]


class _Rounds(Rounds):
    name, rules_out = "nvflare", RULED_OUT


class BudgetedFedAvg(FedAvg):
    """FedAvg with equal weights, clipping and Gaussian noise on the server, and a run of the ledger around its rounds.

    dataset: its name in the ledger, found by LEDGER_URL and LEDGER_KEY of the server's process. noise_multiplier: the
    noise on the sum of the updates, over clipping_norm. population: a public lower bound of the number of connected
    clients, of which each round draws num_clients; without it, no amplification is claimed. request_id: the
    idempotency_key of the run, default the job's id, so that a job that starts again goes on with the rounds that are
    left. The other arguments are FedAvg's.

    A round in which a client is missing counts and releases nothing. Metrics of clients, which have no noise, are not
    returned, and no model is chosen by them.
    """

    start_round: int
    num_rounds: int

    def __init__(
        self,
        *args: Any,
        dataset: str,
        noise_multiplier: float,
        clipping_norm: float,
        population: int | None = None,
        request_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # NVFlare writes a job's arguments from the attributes of the same names.
        self.dataset, self.noise_multiplier, self.clipping_norm = dataset, noise_multiplier, clipping_norm
        self.population, self.request_id = population, request_id
        self._training: Rounds | None = None
        self._approved: tuple[float, float, int] = (0.0, 0.0, 0)
        self._sent: dict[str, np.ndarray[Any, Any]] = {}
        self._sum: dict[str, np.ndarray[Any, Any]] = {}
        self._seen: set[str] = set()
        self._wrong: NotCovered | None = None
        self._is_released = False
        self._adding = threading.Lock()

    # --- the beginning and the end

    def run(self) -> None:
        """Ask for the rounds, execute those that are left, and settle them. An error ends the job."""
        self._demand_controller()
        training = self._ask()
        done = self.num_rounds - min(self.num_rounds, training.steps_left)
        if done:
            self.warning(f"Run {training.run.id}: {done} of {self.num_rounds} rounds were executed before.")
        self.start_round, self.num_rounds = self.start_round + done, self.num_rounds - done
        try:
            super().run()
        except BaseException as error:
            training.finish(error)
            raise
        training.finish(RuntimeError("the job was aborted") if self.abort_signal.triggered else None)

    def _demand_controller(self) -> None:
        """Refuse options with which a mean is not bounded, or is chosen without noise. Raises NotCovered."""
        clients = whole(self.num_clients, "num_clients")
        if self.population is not None:
            whole(self.population, "population")
        if not 0 < self.clipping_norm < float("inf"):
            raise NotCovered(f"clipping_norm: {self.clipping_norm!r} bounds nothing. Give a number above 0.")
        for name, instead in (
            ("aggregator", "the mean of this controller has its noise for equal weights"),
            ("aggregation_weights", "the noise is for equal weights"),
            ("exclude_vars", "each array that is sent is released, with noise"),
            ("stop_cond", "metrics of clients have no noise: give num_rounds"),
            ("enable_tensor_disk_offload", "updates are clipped in memory"),
        ):
            if getattr(self, name):
                raise NotCovered(f"{name}: leave it out; {instead}.")
        for name, component in _components(self.engine).items():
            if isinstance(component, IntimeModelSelector):
                raise NotCovered(
                    f"The component {name!r} (IntimeModelSelector) chooses a model by metrics of clients, which have no"
                    " noise. Leave it out of the job: BaseFedJob and FedAvgRecipe add it, FedJob does not."
                )
        self._approved = (float(self.noise_multiplier), float(self.clipping_norm), clients)

    def _ask(self) -> Rounds:
        library = demand_version("nvflare", "nvflare", VERSION)
        noise, clip, clients = self._approved
        job = str(self.fl_ctx.get_job_id(SIMULATED))
        key = self.request_id or (None if job == SIMULATED else f"nvflare-{job}")
        options: dict[str, Any] = {} if key is None else {"idempotency_key": key}
        training = self._training = _Rounds(self.dataset, None, options)
        terms = training.terms()
        mechanism = round_mechanism(
            terms,
            noise_multiplier=rounded_down(noise),
            clients=clients,
            population=self.population,
            rounds=whole(self.num_rounds, "num_rounds"),
        )
        unit = "each record is at one client" if terms["privacy_unit"] == "record" else "each client is one unit"
        training.begin(
            mechanism,
            {
                "libraries": {"nvflare": library, "numpy": np.__version__},
                "options": {
                    "controller": type(self).__name__,
                    "job": job[:64],
                    "filter": "none",
                    "weighted_by_examples": False,
                    "clipping_norm": clip,
                    "num_clients": clients,
                    "population": self.population or 0,
                    "sampling": "fixed_size" if self.population else "not amplified",
                    "fixed_seed": False,
                },
                "checked": [
                    "one clipped, finite update of each drawn client, with equal weights",
                    "noise of the approved deviation at each release",
                    "noise and draws of clients seeded by the operating system",
                ],
                "assumed": [unit, "who takes part in a round, and what a client returns, is not published"],
            },
        )
        return training

    @property
    def _rounds(self) -> Run:
        if self._training is None:
            raise NotCovered("The run was not asked for. Let NVFlare start the controller.")
        return self._training.run

    # --- rounds

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """Return the clients of a round, which is counted. Raises PlanExceeded beyond the plan, and NotCovered."""
        _, _, clients = self._approved
        connected = len(self.engine.get_clients())
        if self.population is not None and connected < self.population:
            raise NotCovered(
                f"Fewer clients are connected than the population of {self.population} that amplifies each round. Wait"
                " for more, or give a smaller population."
            )
        state = random.getstate()
        random.seed()
        try:
            drawn: list[str] = super().sample_clients(num_clients)
        finally:
            random.setstate(state)
        if len(set(drawn)) != clients:
            raise NotCovered(f"{len(set(drawn))} clients were drawn, and the noise is for {clients}. Wait for more.")
        self._rounds.step()
        return drawn

    def send_model(self, *args: Any, **given: Any) -> None:
        """Send the model of a round, and keep it: updates are differences to it."""
        params = given["data"].params
        if not params or any(getattr(value, "dtype", None) not in _FLOATS for value in params.values()):
            raise NotCovered(
                "The model has something else than NumPy arrays of float32 or float64: noise on those is rounded, or"
                " left out. Use server_expected_format numpy, and keep counters at the clients."
            )
        self._sent = {name: np.array(value) for name, value in params.items()}
        self._sum = {name: np.zeros(value.shape) for name, value in self._sent.items()}
        self._seen, self._wrong, self._is_released = set(), None, False
        super().send_model(*args, **given)

    def _aggregate_one_result(self, result: Any) -> bool:
        """Add one client's clipped update. What is wrong is raised when the round ends: NVFlare only logs it here."""
        client = str((result.meta or {}).get("client_name"))
        try:
            update = _clipped(result, self._sent, self._approved[1])
        except NotCovered as error:
            self._wrong = error
            return False
        with self._adding:
            if client in self._seen:
                return False
            self._seen.add(client)
            for name, value in update.items():
                self._sum[name] += value
            self._received_count += 1
        return True

    def _get_aggregated_result(self) -> Any:
        """Return the noisy mean of the updates; no change if a client is missing. Raises NotCovered."""
        noise, clip, clients = self._approved
        training = self._training
        if training is None:
            raise NotCovered("The run was not asked for.")
        if self._wrong is not None:
            raise self._wrong
        if len(self._seen) != clients or self._is_released:  # another mean of a round would be a release of its own
            training.skipped += 1
            self.warning(f"Round {self.current_round} released nothing: one mean of {clients} clients is covered.")
            change = {name: np.zeros_like(value) for name, value in self._sent.items()}
        else:
            generator = np.random.default_rng()  # seeded by the operating system
            change = {
                name: ((value + generator.normal(0, noise * clip, value.shape)) / clients).astype(
                    self._sent[name].dtype
                )
                for name, value in self._sum.items()
            }
            training.noised += 1
            self._is_released = True
        meta = {"nr_aggregated": clients, "current_round": self.current_round}
        return FLModel(params=change, params_type=ParamsType.DIFF, current_round=self.current_round, meta=meta)


_FLOATS: Final = (np.dtype("float32"), np.dtype("float64"))


def _clipped(result: Any, sent: Mapping[str, Any], clip: float) -> dict[str, Any]:
    """Return a client's update with at most this norm; zeros if it has something that is no number. Raises NotCovered
    for other arrays than were sent."""
    params = result.params or {}
    if set(params) != set(sent) or any(np.shape(params[name]) != sent[name].shape for name in sent):
        raise NotCovered("A client returned other arrays than it got. Return all of them, of the same shapes.")
    is_full = result.params_type == ParamsType.FULL
    update = {
        name: np.asarray(params[name], dtype=np.float64) - (value.astype(np.float64) if is_full else 0)
        for name, value in sent.items()
    }
    largest = max((float(np.max(np.abs(one))) for one in update.values() if one.size), default=0.0)
    if not np.isfinite(largest):
        return {name: np.zeros(value.shape) for name, value in sent.items()}
    # Divided first, so that squares do not overflow.
    scale = largest or 1.0
    norm = scale * float(np.sqrt(sum(float(np.sum((one / scale) ** 2)) for one in update.values())))
    factor = min(1.0, clip / norm) if norm > 0 else 1.0
    return {name: one * factor for name, one in update.items()}


def _components(engine: Any) -> Mapping[str, Any]:
    """Return the components of a job on the server."""
    manager = getattr(engine, "run_manager", None)
    return getattr(manager, "components", None) or {}
