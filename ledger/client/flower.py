"""Flower: a strategy that asks for its rounds before the first, counts each before it is sent, and ends with its plan.

    from ledger.client.flower import BudgetedStrategy

    strategy = DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_train=0.2), 3.0, 0.5, 20)
    strategy = BudgetedStrategy(strategy, dataset="phones", population=100)  # the one line
    result = strategy.start(grid, initial_arrays, num_rounds=50)

It needs Flower 1.42: `pip install 'privacy-ledger[flower]'`.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from ledger.client.attached import (
    NotCovered,
    demand_version,
    rounded_down,
    seeded_by_system,
    whole,
)
from ledger.client.federated import Rounds, round_mechanism
from ledger.client.ledgers import Ledger
from ledger.client.runs import Run

log = logging.getLogger("ledger.client.flower")

VERSION: Final = "1.42"
RULED_OUT: Final = ("flower-central-weights", "flower-client-accountant", "flower-local-dp-message")
"""The advisories whose fault is refused, or whose numbers are not used."""
KINDS: Final = (DifferentialPrivacyServerSideFixedClipping, DifferentialPrivacyClientSideFixedClipping)
_SEED_WORDS: Final = 16
_LEAST: Final = 1e-6
"""The part of the clip norm below which an update is as none: single precision may have a norm of 0 for it."""
_CLIPPED: Final = 1 + 1e-4
"""How much more than the clip norm an update may have that was clipped in single precision."""

__all__ = ["BudgetedStrategy", "NotCovered"]


class _Rounds(Rounds):
    """inner: the strategy with Flower's own accountant, if it has one."""

    name, rules_out = "flower", RULED_OUT

    def __init__(self, inner: Any, dataset: Any, ledger: Ledger | None, options: Mapping[str, Any]) -> None:
        super().__init__(dataset, ledger, options)
        self._inner = inner

    def differences(self) -> list[str]:
        found, accountant = super().differences(), self._inner.accountant
        if accountant is not None and (count := accountant.get_privacy_spent().num_releases) != self.noised:
            found.append(f"Flower's accountant recorded {count} releases, and {self.noised} were made")
        return found


class BudgetedStrategy(Strategy):
    """A strategy of Flower with central differential privacy, whose rounds are approved before they are sent.

    strategy: DifferentialPrivacyServerSideFixedClipping or …ClientSideFixedClipping around a strategy that aggregates
    as FedAvg. dataset: the dataset's name in the ledger, or several. population: a public lower bound of the number of
    connected clients, from which each round draws; without it, no amplification by sampling is claimed. rounds: of the
    plan; default num_rounds of `start`. equal_weights: whether to give each client the same weight, whatever number of
    examples it returns. publish_metrics: whether to return metrics of clients, which have no noise; without it, clients
    are not asked to evaluate. ledger: default Ledger(). options: for `Ledger.run`: purpose, project, idempotency_key,
    steps_done, …

    `start` raises BudgetExceeded before the first round if the run does not fit, and NotCovered, with what to change,
    if a round would do something that is not accounted for. Started again after the server was killed, it goes on with
    the rounds that are left, from the arrays that you give. Loops that do not call `start` give rounds, and end with
    `finish()`.
    """

    def __init__(
        self,
        strategy: Any,
        *,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        population: int | None = None,
        rounds: int | None = None,
        equal_weights: bool = False,
        publish_metrics: bool = False,
        ledger: Ledger | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._library = demand_version("flwr", "flwr", VERSION)
        _demand_strategy(strategy)
        for name, value in (("population", population), ("rounds", rounds)):
            if value is not None:
                whole(value, name)
        self.strategy, self._population, self._rounds = strategy, population, rounds
        self._equal_weights, self._publish_metrics = equal_weights, publish_metrics
        self._approved = _numbers(strategy)
        self._sent: ArrayRecord | None = None
        self._nodes: set[int] = set()
        self.training = _Rounds(strategy, dataset, ledger, options)
        self._watch_noise()

    # --- the beginning and the end

    def start(self, grid: Any, initial_arrays: ArrayRecord, num_rounds: int = 3, *args: Any, **given: Any) -> Any:
        """Ask for the rounds, execute those that are left, and settle them. Arguments and result are Flower's."""
        self._ask(self._rounds or num_rounds)
        left = min(num_rounds, self.training.steps_left)
        if left < num_rounds:
            run = self.training.run
            log.warning(
                "Run %s: %d of its %d rounds were executed before, and %d are left.",
                run.id,
                run.steps,
                run.planned_steps,
                left,
            )
        with self.training:
            return super().start(grid, initial_arrays, left, *args, **given)

    def finish(self, error: BaseException | None = None) -> None:
        """Settle the run, as `Attached.finish`: for loops that do not call `start`."""
        self.training.finish(error)

    def _ask(self, rounds: int) -> Run:
        training, strategy = self.training, self.strategy
        noise, clip, clients = self._approved
        terms = training.terms()
        mechanism = round_mechanism(
            terms, noise_multiplier=rounded_down(noise), clients=clients, population=self._population, rounds=rounds
        )
        facts = {
            "libraries": {"flwr": self._library, "numpy": np.__version__},
            "options": {
                "strategy": type(strategy).__name__,
                "around": type(strategy.strategy).__name__,
                "weighted_by_examples": False,
                "equal_weights_set": self._equal_weights,
                "clipping_norm": clip,
                "num_sampled_clients": clients,
                "population": self._population or 0,
                "sampling": "fixed_size" if self._population else "not amplified",
                "accountant": "none" if strategy.accountant is None else type(strategy.accountant).__name__,
                "accountant_scope": "run",
                "mod": "fixedclipping_mod" if isinstance(strategy, KINDS[1]) else "none",
                "metrics": "published" if self._publish_metrics else "dropped",
                "fixed_seed": False,
            },
            "checked": [
                "equal weights of as many different clients as the noise is for",
                "clipped, finite updates of the arrays that were sent",
                "noise of the approved deviation at each release",
                "noise and draws of clients seeded by the operating system",
            ],
            "assumed": [
                "each record is at one client" if terms["privacy_unit"] == "record" else "each client is one unit",
                "who takes part in a round, and what a client returns, is not published",
                *(["metrics of clients are not personal"] if self._publish_metrics else []),
            ],
        }
        return training.begin(mechanism, facts)

    # --- rounds

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Any]:
        """Return the messages of a round, which is counted. Raises PlanExceeded beyond the plan, and NotCovered."""
        if self.training._run is None:  # noqa: SLF001 (both are the client)
            if self._rounds is None:
                raise NotCovered("Without start(), the number of rounds is not known: BudgetedStrategy(…, rounds=…).")
            self._ask(self._rounds)
        if self.training.is_over:
            raise NotCovered("The run is settled. Make a new BudgetedStrategy, and send nothing here.")
        self._demand_unchanged()
        _demand_floats(arrays)
        _, _, clients = self._approved
        connected = list(grid.get_node_ids()) if self._population is not None else []
        if self._population is not None and len(set(connected)) < self._population:
            raise NotCovered(
                f"Fewer clients are connected than the population of {self._population} that amplifies each round. Wait"
                " for more, min_available_nodes of the strategy, or give a smaller population."
            )
        with _fresh_seeds():
            messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._nodes = {message.metadata.dst_node_id for message in messages}
        if len(messages) != clients or len(self._nodes) != clients:
            raise NotCovered(
                f"The strategy sends {len(messages)} messages to {len(self._nodes)} clients, and the noise is for"
                f" {clients}. Give fraction_train and min_train_nodes that draw num_sampled_clients."
            )
        self.training.run.step()
        self._sent = arrays
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[ArrayRecord | None, Any]:
        """Return the noisy mean, or nothing if clients are missing. Raises NotCovered before anything is released."""
        received = list(replies)
        _, _, clients = self._approved
        good = [reply for reply in received if not reply.has_error()]
        nodes = {reply.metadata.src_node_id for reply in good}
        expected, self._nodes = self._nodes, set()  # a second mean of the same replies would be a release of its own
        if len(good) != clients or nodes != expected:
            self.training.skipped += 1
            log.warning(
                "Round %d counts, and released nothing: the noise is for %d clients, and others or fewer answered.",
                server_round,
                clients,
            )
            return None, None
        self._demand_weights(good)
        for reply in good:
            self._repair(reply)
        self._demand_unchanged()
        noised = self.training.noised
        with _fresh_seeds():
            arrays, metrics = self.strategy.aggregate_train(server_round, good)
        if arrays is None:
            self.training.skipped += 1
        elif self.training.noised != noised + 1:
            raise NotCovered("The mean of this round got no noise. Do not publish it.")
        return arrays, metrics if self._publish_metrics else None

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Any]:
        """Return the messages of an evaluation by clients; none unless their metrics may be published."""
        if not self._publish_metrics:
            return []
        messages: Iterable[Any] = self.strategy.configure_evaluate(server_round, arrays, config, grid)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        """Return the metrics of clients, if they may be published."""
        return self.strategy.aggregate_evaluate(server_round, replies) if self._publish_metrics else None

    def summary(self) -> None:
        """Log the wrapped strategy's configuration."""
        self.strategy.summary()

    # --- what a round must be

    def _demand_unchanged(self) -> None:
        if _numbers(self.strategy) != self._approved:
            raise NotCovered(
                "noise_multiplier, clipping_norm or num_sampled_clients of the strategy changed after the run was asked"
                " for. Leave them, or make a new BudgetedStrategy."
            )

    def _demand_weights(self, replies: list[Any]) -> None:
        """Refuse different weights, or make them equal if the caller asked for that."""
        key, weights = self.strategy.strategy.weighted_by_key, set()
        for reply in replies:
            records = list(reply.content.metric_records.values())
            if self._equal_weights and len(records) == 1:
                records[0][key] = 1.0
            weights.add(records[0].get(key) if len(records) == 1 else None)
        weight = weights.pop()
        if weights or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise NotCovered(
                f"FedAvg weighs clients by {key!r}, and these differ or are missing. The noise is for equal weights:"
                " with others one client moves the mean by more. Return the same number from each client, or give"
                " BudgetedStrategy(…, equal_weights=True)."
            )

    def _repair(self, reply: Any) -> None:
        """Give an update that is not finite no effect, and refuse arrays that would be clipped against others."""
        sent = self._sent
        if sent is None:
            raise NotCovered("A reply came before a round was sent.")
        for name, record in reply.content.array_records.items():
            if list(record.keys()) != list(sent.keys()):
                raise NotCovered(
                    "A client returned arrays with other keys, or in another order, than it got: Flower clips them by"
                    " their place. Return the same keys in the same order."
                )
            before, after = sent.to_numpy_ndarrays(), record.to_numpy_ndarrays()
            if [one.shape for one in before] != [one.shape for one in after]:
                raise NotCovered("A client returned arrays of other shapes than it got.")
            after = [np.asarray(one, dtype=old.dtype) for one, old in zip(after, before, strict=True)]
            norm = _norm(after, before)
            if not np.isfinite(norm):
                after, norm = [one.copy() for one in before], 0.0
            if norm < _LEAST * self._approved[1]:
                after = _moved(before, _LEAST * self._approved[1])
            elif isinstance(self.strategy, KINDS[1]) and norm > self._approved[1] * _CLIPPED:
                raise NotCovered(
                    "A client returned an update above the clip norm. Add fixedclipping_mod to the mods of the"
                    " ClientApp, as the last one, or clip on the server."
                )
            reply.content[name] = ArrayRecord(
                {key: Array(np.asarray(one)) for key, one in zip(record.keys(), after, strict=True)}
            )

    def _watch_noise(self) -> None:
        inner, training = self.strategy._add_noise_to_aggregated_arrays, self.training  # noqa: SLF001

        def noised(arrays: ArrayRecord) -> Any:
            result = inner(arrays)
            training.noised += 1
            return result

        self.strategy._add_noise_to_aggregated_arrays = noised  # noqa: SLF001


def _demand_strategy(strategy: Any) -> None:
    """Refuse strategies whose mean nobody has bounded. Raises NotCovered."""
    name = type(strategy).__name__
    if type(strategy) not in KINDS:
        hint = (
            "adaptive clipping accounts a bit of sensitivity 1 as one of 1/2"
            if "Adaptive" in name
            else "it adds no noise that is known here"
        )
        raise NotCovered(
            f"{name}: {hint}. Use DifferentialPrivacyServerSideFixedClipping of flwr.serverapp.strategy around FedAvg."
        )
    around = strategy.strategy
    if not isinstance(around, FedAvg) or type(around).aggregate_train is not FedAvg.aggregate_train:
        raise NotCovered(
            f"{type(around).__name__} does not aggregate as FedAvg. Flower adds the noise after it, so that medians,"
            " momentum and other server optimizers change the mean, or keep it, without noise. Use FedAvg, and a server"
            " optimizer on the arrays that it returns."
        )
    if "_add_noise_to_aggregated_arrays" in vars(strategy):
        raise NotCovered("This strategy is in a BudgetedStrategy already. Make a new one for each run.")


def _numbers(strategy: Any) -> tuple[float, float, int]:
    """Return what decides the cost: noise over the clip norm, clip norm, clients of a round."""
    return float(strategy.noise_multiplier), float(strategy.clipping_norm), int(strategy.num_sampled_clients)


def _demand_floats(arrays: ArrayRecord) -> None:
    kinds = {str(one.dtype) for one in arrays.to_numpy_ndarrays()}
    if small := sorted(kinds - {"float32", "float64"}):
        raise NotCovered(
            f"Arrays of {', '.join(small)}: sums and noise of whole numbers or 16 bits are rounded too much. Send"
            " float32, and keep counters at the clients."
        )


def _norm(after: list[Any], before: list[Any]) -> float:
    squares = [
        float(np.sum((one.astype(np.float64) - old.astype(np.float64)) ** 2))
        for one, old in zip(after, before, strict=True)
    ]
    return float(np.sqrt(sum(squares)))


def _moved(arrays: list[Any], by: float) -> list[Any]:
    """Return arrays of which one number is moved by a little: Flower divides by the norm of an update, also by 0."""
    arrays = [one.copy() for one in arrays]
    first = next(one for one in arrays if one.size)
    first.flat[0] += max(by, float(np.spacing(np.abs(first.flat[0]))))
    return arrays


@contextlib.contextmanager
def _fresh_seeds() -> Iterator[None]:
    """Let the global generators, which draw clients and noise, have seeds of the operating system for a while."""
    numbers, python = np.random.get_state(), random.getstate()
    np.random.seed(seeded_by_system(_SEED_WORDS))
    random.seed()
    try:
        yield
    finally:
        np.random.set_state(numbers)
        random.setstate(python)
