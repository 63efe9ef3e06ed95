"""NumPy and SciPy, imported at the first number that needs them: most of what a server does needs none."""

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
    """Whether they are imported, so that the next number takes no second."""
    return is_imported("scipy.special")
