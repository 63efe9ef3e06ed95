"""scikit-learn: each fit of a search is an approved run, with estimators of diffprivlib."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest
from diffprivlib import BudgetAccountant
from diffprivlib.models import GaussianNB
from sklearn.datasets import load_iris
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 (it makes the next import work)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import Pipeline

from ledger.client import Ledger, PureDP
from ledger.client.sweeps import NotApproved, count_fits, uncharged
from ledger.errors import InvalidRequest

EPSILON = 0.02
X, Y = load_iris(return_X_y=True)
BOUNDS = (np.array([4.0, 2.0, 1.0, 0.1]), np.array([8.0, 4.5, 7.0, 2.5]))
GRID = {"var_smoothing": [1e-9, 1e-6, 1e-3, 1e-1]}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.simplefilter("ignore")


class Counted(GaussianNB):
    """diffprivlib's classifier, which counts every fit of every clone: the independent count."""

    fits: ClassVar[Counter[float]] = Counter()

    def fit(self, data: Any, target: Any = None, sample_weight: Any = None) -> Counted:
        type(self).fits[self.var_smoothing] += 1
        super().fit(data, target, sample_weight)
        return self


@pytest.fixture
def model() -> Any:
    """A classifier with an accountant that has room for one fit."""
    Counted.fits.clear()
    return Counted(epsilon=EPSILON, bounds=BOUNDS, accountant=BudgetAccountant(epsilon=EPSILON))


def settled(ledger: Ledger, dataset: str) -> int:
    """How many runs were settled; no other state is left."""
    states = Counter(run["state"] for run in ledger.runs(dataset=dataset))
    assert set(states) <= {"settled", "voided"}
    return states["settled"]


def test_diffprivlibs_accountant_does_not_bind_a_search(model: Any) -> None:
    """Goal: why it is not trusted. Method: an accountant with room for one fit, and a search of 13."""
    search = GridSearchCV(model, GRID, cv=3, error_score="raise").fit(X, Y)
    assert Counted.fits.total() == 13
    assert model.accountant.total()[0] == 0
    assert search.best_params_


def test_every_fit_of_a_grid_search_is_a_run(ledger: Ledger, dataset: str, model: Any) -> None:
    """Goal: as many runs as fits, counted beforehand; the names of parameters stay; the model that is kept has its own
    class. Method: an independent count in `fit`."""
    search = GridSearchCV(model, GRID, cv=3)
    fits = count_fits(search, X, Y)
    assert fits == 4 * 3 + 1
    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=PureDP(epsilon=EPSILON), trials=fits) as sweep:
        search.set_params(estimator=sweep.charged(model)).fit(X, Y)
    assert Counted.fits.total() == settled(ledger, dataset) == fits
    kept = uncharged(search.best_estimator_)
    assert type(kept) is Counted
    assert (kept.predict(X) == search.predict(X)).all()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fit_that_is_not_approved_does_not_happen(ledger: Ledger, dataset: str, model: Any, jobs: int) -> None:
    """Goal: a search that needs more fits than were approved ends with an error, in other processes too, and fits no
    more than that. Method: five runs, and a search of 13 fits; as many runs as were approved were settled."""
    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=PureDP(epsilon=EPSILON), trials=5) as sweep:
        search = GridSearchCV(sweep.charged(model), GRID, cv=3, n_jobs=jobs, error_score="raise")
        with pytest.raises(NotApproved):
            search.fit(X, Y)
    assert settled(ledger, dataset) <= 5
    if jobs == 1:
        assert Counted.fits.total() == 5


def test_other_searches(ledger: Ledger, dataset: str, model: Any) -> None:
    """Goal: random search, cross validation, a pipeline and halving are charged for each fit as well. Method: the count
    beforehand if there is one, and the independent count."""
    pipeline = Pipeline([("model", model)])
    randomized = RandomizedSearchCV(model, GRID, n_iter=2, cv=4, random_state=1)
    halving = HalvingGridSearchCV(model, GRID, cv=2, random_state=1)
    assert count_fits(randomized, X, Y) == 9
    assert count_fits(GridSearchCV(model, {}, cv=5, refit=False), X, Y) == 5
    assert count_fits(GridSearchCV(pipeline, {"model__var_smoothing": [1e-9, 1e-3]}, cv=3), X, Y) == 7
    with pytest.raises(InvalidRequest, match="HalvingGridSearchCV"):
        count_fits(halving, X, Y)
    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=PureDP(epsilon=EPSILON), trials=60) as sweep:
        randomized.set_params(estimator=sweep.charged(model)).fit(X, Y)
        cross_validate(sweep.charged(model), X, Y, cv=5)
        grid = GridSearchCV(sweep.charged(pipeline), {"model__var_smoothing": [1e-9, 1e-3]}, cv=3).fit(X, Y)
        before = Counted.fits.total()
        assert before == 9 + 5 + 7
        halving.set_params(estimator=sweep.charged(model)).fit(X, Y)
        assert Counted.fits.total() > before
    assert Counted.fits.total() == settled(ledger, dataset)
    assert grid.best_estimator_.named_steps["model"].epsilon == EPSILON
