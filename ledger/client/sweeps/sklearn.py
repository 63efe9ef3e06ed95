"""scikit-learn: estimators of which each fit is charged, and the number of fits of a search.

A search clones its estimator for each fit. A clone of diffprivlib's carries a copy of the accountant, whose limit
therefore binds nothing. A class that is charged stays charged when it is cloned.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from ledger.client.trackers.linked import loaded
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from ledger.client.sweeps.sweep import Sweep

FITS: Final = ("fit", "fit_transform", "fit_predict", "partial_fit")
"""The methods that use data to fit."""
_ORIGINAL: Final = "_uncharged_class"
_under_way = threading.local()


def charged(sweep: Sweep, estimator: Any) -> Any:
    """Return a copy of an estimator that is charged for each fit. Raises InvalidRequest if it is charged already."""
    original = type(estimator)
    if hasattr(original, _ORIGINAL):
        raise InvalidRequest("estimator: its fits are charged already", field="estimator")
    members: dict[str, Any] = {name: _once(sweep, getattr(original, name)) for name in FITS if hasattr(original, name)}
    own = type(original.__name__, (original,), {**members, _ORIGINAL: original, "__doc__": original.__doc__})
    return own(**estimator.get_params(deep=False))


def _once(sweep: Sweep, fit: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method under the next training of the sweep. A method of these that it calls is the same fit."""

    @wraps(fit)
    def fitted(self: Any, *given: Any, **named: Any) -> Any:
        return _fitted(sweep, fit, self, given, named)  # all else would be sent to other processes too

    return fitted


def _fitted(sweep: Sweep, fit: Callable[..., Any], own: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    fitting: set[int] = _under_way.__dict__.setdefault("fitting", set())
    if id(own) in fitting:
        return fit(own, *given, **named)
    with sweep.next():
        fitting.add(id(own))
        try:
            return fit(own, *given, **named)
        finally:
            fitting.discard(id(own))


def uncharged(estimator: Any) -> Any:
    """Return a fitted estimator of the class that it had before `Sweep.charged`, with the same state: to keep a model.
    Fits of it are not charged. Raises InvalidRequest if it is not charged."""
    original = getattr(type(estimator), _ORIGINAL, None)
    if original is None:
        raise InvalidRequest("estimator: its fits are not charged, so it is returned by nothing", field="estimator")
    plain = original.__new__(original)
    plain.__dict__.update(vars(estimator))
    return plain


def count_fits(search: Any, X: Any, y: Any = None, *, groups: Any = None) -> int:  # noqa: N803 (scikit-learn's name)
    """Return how many fits a search makes: folds times candidates, and one if it refits on all data.

    search: a GridSearchCV, RandomizedSearchCV, or a halving search with `factor` and `min_resources` as numbers; for
    `cross_validate` count `GridSearchCV(estimator, {}, cv=cv, refit=False)`. Raises InvalidRequest for other searches:
    count their fits, and ask for as many trials.
    """
    model_selection = loaded(lambda: importlib.import_module("sklearn.model_selection"), package="scikit-learn")
    base = loaded(lambda: importlib.import_module("sklearn.base"), package="scikit-learn")
    cv = model_selection.check_cv(search.cv, y, classifier=base.is_classifier(search.estimator))
    folds, refit = int(cv.get_n_splits(X, y, groups)), int(bool(search.refit))
    if type(search) is model_selection.GridSearchCV:
        return len(model_selection.ParameterGrid(search.param_grid)) * folds + refit
    if type(search) is model_selection.RandomizedSearchCV:
        return len(model_selection.ParameterSampler(search.param_distributions, search.n_iter)) * folds + refit
    raise InvalidRequest(
        f"search: the fits of {type(search).__name__} depend on what it finds. Count them with a run on public data of"
        " the same size, and ask for as many trials.",
        field="search",
    )
