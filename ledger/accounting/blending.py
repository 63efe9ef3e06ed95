"""The composition of steps that are mixtures of a few pairs: as `composition`, with one transform for each pair.

A level's characteristic function is the mixture of those of its corners, z_c, under a tilt with weights w_c M_c(a). The
sum over all levels of T log(1 + sum of w_c (z_c - 1)) is needed only at the frequencies at which the product is not
negligible. With many steps these are few. |z| of a mixture is at most the largest of its corners'; at the frequencies
at which that leaves at most e^-70, the product is taken for 0, with this bound as its error. All errors are added up as
in `composition`: an error of a corner's transform counts with its weight, and the largest relative error of any
corner's masses counts for all steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from ledger.accounting import composition, deadline
from ledger.accounting.composition import ERROR_MAX, Characteristic, Part, Tilt, Vertices, unresolved
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.levels import Mixing
from ledger.accounting.numeric import FloatArray, NDArray, np

_NEGLIGIBLE_LOG: Final = -70.0
_FREQUENCIES_MAX: Final = 2**16
"""The most frequencies at which products are worked out; beyond them only a bound is."""
_TABLE_MAX: Final = 2**18
_MIXING_ERROR: Final = 64 * UNIT_ROUNDOFF
"""Of the weights of a mixture, and of its moment: a few units each."""

if TYPE_CHECKING:
    Values = TypeVar("Values", FloatArray, NDArray[np.complex128])
else:
    Values = TypeVar("Values")


def vertices(parts: Sequence[Part], tilt: Tilt, mixing: Mixing | None = None) -> Vertices:
    """Return bounds at the losses >= 0 that a tilt serves, of parts, or of mixtures of them, whatever their steps."""
    if mixing is None:
        return composition.vertices(parts, tilt)
    deadline.check()
    steps = float(mixing.counts.sum())
    once = max(composition.relative_error_of_step(part.losses, tilt) for part in parts) + _MIXING_ERROR
    error = 2 * steps * once
    if error > ERROR_MAX:
        return unresolved()
    lost = np.array([part.losses.missing[0] for part in parts])
    missing = float(mixing.counts @ (mixing.weights * lost[mixing.corners]).sum(axis=1)) * (1 + 2.0**-30)
    composed = _Mixtures(parts, tilt, mixing).composed()
    return composition.bounds(composed, tilt, parts[0].losses.width, steps_error=error, missing=missing)


@dataclass(slots=True)
class _Spectrum:
    """The characteristic functions of all parts less 1 at the first frequencies, with a bound of their errors, both of
    shape (parts, frequencies), and at all of them the logarithm of a bound of |z|: of shape (parts, frequencies), and
    beyond these the largest of all parts."""

    changes: NDArray[np.complex128]
    errors: FloatArray
    logs: FloatArray
    beyond: FloatArray
    centre: int


class _Mixtures:
    """Mixtures of parts, under a tilt."""

    def __init__(self, parts: Sequence[Part], tilt: Tilt, mixing: Mixing) -> None:
        self._parts, self._tilt, self._mixing = parts, tilt, mixing
        self._low, self._length = composition.span_of(tilt, parts[0].losses.width)

    def composed(self) -> composition.Composed:
        """Return the tilted composition."""
        width, low, length = self._parts[0].losses.width, self._low, self._length
        total = self._log_moment(self._tilt.exponent)
        window = (low * width, (low + length) * width)
        outside = composition.outside(self._log_moment, self._tilt, total, window)
        spectrum = self._spectrum()
        powers, errors = self._product(spectrum)
        centre = spectrum.centre * int(self._mixing.counts.sum())
        return composition.inverted(
            powers, errors, low=low, length=length, centre=centre, log_moment=total, outside=outside
        )

    def _moments(self, exponent: float) -> FloatArray:
        return np.array([composition.log_moment(part.losses, exponent) for part in self._parts])

    def _log_moment(self, exponent: float) -> float:
        """Return the logarithm of the moment of all steps."""
        return math.fsum(self._mixing.counts * self._of_mixtures(self._moments(exponent))[0])

    def _of_mixtures(self, moments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logarithm of each mixture's moment, of shape (n,), and the tilted weights, of shape (n, 4)."""
        logs = moments[self._mixing.corners]
        shift = logs.max(axis=1)
        weighted = self._mixing.weights * np.exp(logs - shift[:, np.newaxis])
        sums = weighted.sum(axis=1)
        return shift + np.log(sums), weighted / sums[:, np.newaxis]

    def _spectrum(self) -> _Spectrum:
        frequencies = self._length // 2 + 1
        kept = min(frequencies, _FREQUENCIES_MAX)
        shape = (len(self._parts), kept)
        spectrum = _Spectrum(
            np.empty(shape, np.complex128), np.empty(shape), np.empty(shape), np.full(frequencies - kept, -math.inf), 0
        )
        moments, steps = self._moments(self._tilt.exponent), int(self._mixing.counts.sum())
        for number, part in enumerate(self._parts):
            deadline.check()
            one: Characteristic = composition.characteristic(
                part.losses,
                steps=steps,
                exponent=self._tilt.exponent,
                log_moment=float(moments[number]),
                length=self._length,
                centre=spectrum.centre if number else None,
            )
            spectrum.centre = one.centre
            size = np.abs(1 + one.change)
            size += one.error
            size += 8 * UNIT_ROUNDOFF
            logs = np.log(np.minimum(size, 1.0, out=size), out=size)
            spectrum.changes[number], spectrum.errors[number] = one.change[:kept], one.error[:kept]
            spectrum.logs[number] = logs[:kept]
            np.maximum(spectrum.beyond, logs[kept:], out=spectrum.beyond)
        return spectrum

    def _product(self, spectrum: _Spectrum) -> tuple[NDArray[np.complex128], FloatArray]:
        """Return the transform of the composition, and a bound of its error, each of shape (n/2 + 1,)."""
        counts = self._mixing.counts
        bound = np.concatenate((self._bound(spectrum.logs), float(counts.sum()) * spectrum.beyond))
        # More than the rounding of the logarithms and of their sum.
        bound *= 1 - 2.0**-40
        kept = np.flatnonzero(bound[: spectrum.logs.shape[1]] > _NEGLIGIBLE_LOG)
        powers = np.zeros(bound.size, dtype=np.complex128)
        errors = np.exp(bound, out=bound)
        powers[kept], errors[kept] = composition.powers_of(*self._logarithms(spectrum, kept))
        return powers, errors

    def _bound(self, logs: FloatArray) -> FloatArray:
        """Return the logarithm of a bound of the product: mixtures of the same corners are together."""
        cells, place = np.unique(self._mixing.corners, axis=0, return_inverse=True)
        counts = np.bincount(place.reshape(-1), weights=self._mixing.counts)
        bound = np.zeros(logs.shape[1])
        for cell, count in zip(cells, counts, strict=True):
            bound += count * logs[np.unique(cell)].max(axis=0)
        return bound

    def _logarithms(self, spectrum: _Spectrum, kept: NDArray[np.int64]) -> tuple[NDArray[np.complex128], FloatArray]:
        """Return the logarithm of the product at these frequencies, and its error."""
        mixing, (_, weights) = self._mixing, self._of_mixtures(self._moments(self._tilt.exponent))
        changes, errors = spectrum.changes[:, kept], spectrum.errors[:, kept]
        # Four products and their sum, and the weights themselves.
        errors = errors + 16 * UNIT_ROUNDOFF * np.abs(changes)
        rows = max(_TABLE_MAX // max(kept.size, 1), 1)
        chunks = -(-mixing.counts.size // rows)
        # Of the logarithm and its product, as in `composition`; of the halvings in a chunk, and of the sum of these.
        unit = (8 + rows.bit_length() + 1 + chunks) * UNIT_ROUNDOFF
        total: NDArray[np.complex128] = np.zeros(kept.size, dtype=np.complex128)
        error = np.zeros(kept.size)
        for start in range(0, mixing.counts.size, rows):
            deadline.check()
            part = slice(start, start + rows)
            change = _weighted(changes, mixing.corners[part], weights[part])
            off = _weighted(errors, mixing.corners[part], weights[part])
            composition.to_logarithms(change, off)
            counts = mixing.counts[part, np.newaxis]
            off += unit * np.abs(change)
            total += _halved(counts * change)
            error += (counts * off).sum(axis=0)
        return total, error * (1 + (rows + chunks) * UNIT_ROUNDOFF)


def _weighted(values: Values, corners: NDArray[np.int64], weights: FloatArray) -> Values:
    """Return the weighted sums of rows of a table, of shape (mixtures, columns)."""
    total = values[corners[:, 0]] * weights[:, :1]
    for column in range(1, corners.shape[1]):
        if weights[:, column].any():
            total += values[corners[:, column]] * weights[:, column : column + 1]
    return total


def _halved(table: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return the sum of the rows, by adding one half of them to the other repeatedly."""
    while table.shape[0] > 1:
        half = -(-table.shape[0] // 2)
        summed = table[:half].copy()
        summed[: table.shape[0] - half] += table[half:]
        table = summed
    return np.asarray(table[0])
