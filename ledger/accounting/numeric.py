"""NumPy and SciPy, imported when a computation first needs them: most requests need neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ledger.deferred import Deferred, is_imported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from scipy import fft, special

    FloatArray = NDArray[np.float64]
    Real = TypeVar("Real", float, NDArray[np.float64])
else:
    np, fft, special = Deferred("numpy"), Deferred("scipy.fft"), Deferred("scipy.special")
    ArrayLike = NDArray = FloatArray = Any
    Real = TypeVar("Real")

__all__ = ["ArrayLike", "FloatArray", "NDArray", "Real", "fft", "is_ready", "np", "special"]


def is_ready() -> bool:
    """Return whether they are imported, so that the next computation does not wait a second for them."""
    return is_imported("scipy.special")
