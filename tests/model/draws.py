"""What is drawn at random: budgets and mechanisms whose cost the model knows exactly."""

from __future__ import annotations

import random
from typing import Final

from tests.model.prices import Json, pure_mu_sq

BUDGETS: Final = [{"mu": mu, "delta": delta} for mu in (1, 2, 0.5, 0.8, 0.3, 1.7) for delta in (2e-6, 5e-6, 1e-6, 0)]
LARGE: Final = [{"mu": mu, "delta": 1e-5} for mu in (2, 2.5, 3)]
SHARES: Final = [{"mu": mu, "delta": delta} for mu in (0.3, 0.5, 0.7) for delta in (1e-6, 0, 3e-6)]
CLEARANCE: Final = 500
"""A cost that is no fraction stays so far from the next integer that the last digit of a double does not matter."""


def _is_clear(epsilon: float) -> bool:
    return all(CLEARANCE**-1 < pure_mu_sq(epsilon) * n * 10**12 % 1 < 1 - CLEARANCE**-1 for n in range(1, 41))


EPSILONS: Final = [number / 100 for number in range(5, 40) if _is_clear(number / 100)][:12]


def gaussian(noise: float = 5, count: int = 1) -> Json:
    """Releases with Gaussian noise."""
    return {"type": "gaussian", "noise_multiplier": noise, "count": count}


class Draw(random.Random):
    """Mechanisms, drawn by the rules of accounting.md."""

    def mechanism(self, bound: str) -> Json:
        """One whose cost the model knows exactly."""
        kinds = [self._gaussian, self._gaussian, self._gdp, self._pure, self._approximate, self._shuffled, self._epochs]
        kinds += [
            self._shuffled,
            self._epochs,
            self._identity,
            self._sensitivity,
            self._composed,
            *([self._full] if bound == "certified" else []),
        ]
        return self.choice(kinds)()

    def noise(self) -> float:
        return self.choice([5, 8, 10, 4, 3, 7.5, 2.5])

    def _gaussian(self) -> Json:
        return gaussian(self.noise(), self.randint(1, 5))

    def _gdp(self) -> Json:
        delta = self.choice([0, 5e-7, 1e-6, 3e-7])
        return {"type": "gdp", "mu": self.choice([0.2, 0.25, 0.1, 0.3]), "delta": delta, "evidence": "Theorem 3"}

    def _pure(self) -> Json:
        return {"type": "pure_dp", "epsilon": self.choice(EPSILONS), "count": self.randint(1, 4)}

    def _approximate(self) -> Json:
        return {**self._pure(), "type": "approximate_dp", "delta": self.choice([1e-7, 4e-7])}

    def _shuffled(self) -> Json:
        rate = {"sample_rate": self.choice([0.5, 0.25, 0.3]), "steps": self.randint(1, 12)}
        return {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": self.noise(), **rate}

    def _epochs(self) -> Json:
        sizes = {"dataset_size": 100, "batch_size": self.choice([20, 30]), "epochs": self.choice([1, 1.5, 1.8, 2])}
        return {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": self.noise(), **sizes}

    def _full(self) -> Json:
        steps = {"sample_rate": 1, "steps": self.randint(1, 4)}
        return {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": self.noise(), **steps}

    def _identity(self) -> Json:
        return self.factorization(self.noise(), self.randint(1, 10))

    def factorization(self, noise: float, steps: int) -> Json:
        """Correlated noise of the strategy that needs no floating-point numbers."""
        shape = {"steps": steps, "participations": self.randint(1, 3), "separation": self.randint(1, 4)}
        return {"type": "matrix_factorization", "noise_multiplier": noise, "strategy": "identity", **shape}

    def _sensitivity(self) -> Json:
        stated = {"sensitivity": self.choice([1, 1.5, 2.25]), "evidence": "Lemma 4"}
        return {"type": "matrix_factorization", "noise_multiplier": self.noise() * 2, **stated}

    def _composed(self) -> Json:
        parts = [self._gaussian(), self._gdp(), self._sensitivity()]
        return {"type": "composed", "parts": self.sample(parts, self.randint(1, 3))}


def derived(*parents: str) -> list[Json]:
    """What a dataset is derived from."""
    return [{"name": parent, "unit_preserving": True} for parent in parents]
