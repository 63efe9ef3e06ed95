"""How DP-SGD draws its batches: what a declaration must have, what it assumes, and the pair of one step."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, Protocol

from pydantic_core import PydanticCustomError

from ledger.accounting import certify, sampling
from ledger.accounting.mechanisms.base import unsupported
from ledger.accounting.pld import Pair
from ledger.core.datasets import Adjacency

Sampled = Literal["poisson", "fixed_size", "shuffle"]

NAMES: Final = ("poisson", "poisson-truncated", "poisson-user", "fixed-size")
"""The ways to draw batches that have a certificate, as its method names them."""
_FIXED: Final = "batches of a fixed size are drawn uniformly without replacement, afresh every step"


class Declared(Protocol):
    """The fields of a declaration that its batches depend on."""

    @property
    def sampling(self) -> Sampled: ...
    @property
    def truncated_batch_size(self) -> int | None: ...
    @property
    def max_examples_per_user(self) -> int | None: ...
    @property
    def dataset_size(self) -> int | None: ...
    @property
    def dataset_size_min(self) -> int | None: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def rate(self) -> Fraction: ...


def demand_known(declared: Declared) -> None:
    """Raise PydanticCustomError if no cost is known of batches that are declared so, or a number is missing."""
    cap, records, least = declared.truncated_batch_size, declared.max_examples_per_user, declared.dataset_size_min
    if cap is not None and declared.sampling != "poisson":
        raise _form(f"truncated_batch_size belongs to poisson sampling; {declared.sampling} batches need no cap")
    if records is not None and declared.sampling != "poisson":
        raise _form(
            f"max_examples_per_user belongs to poisson sampling; no cost is proved of {declared.sampling} batches in "
            "which the records of one user are drawn apart"
        )
    if records is not None and cap is not None:
        raise _form(
            "max_examples_per_user and truncated_batch_size exclude each other: no cost is proved of a capped batch in "
            "which several records of one user push out others; leave batches as large as they are, or sample users"
        )
    if least is not None:
        _demand_least(declared, least)


def _demand_least(declared: Declared, least: int) -> None:
    if declared.sampling != "fixed_size":
        raise _form(f"dataset_size_min belongs to fixed_size sampling; leave it out for {declared.sampling}")
    if declared.dataset_size is not None and least > declared.dataset_size:
        raise _form("dataset_size_min must be at most dataset_size")
    if declared.batch_size is not None and declared.batch_size > least:
        raise _form("batch_size must be at most dataset_size_min")
    if declared.batch_size is None and declared.rate * least < 1:
        raise _form("dataset_size_min must be at least 1/sample_rate, so that a batch has a unit")


def _form(message: str) -> PydanticCustomError:
    return PydanticCustomError("form", "{text}", {"text": message})


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a declaration."""

    declared: Declared

    @property
    def name(self) -> str:
        """Return how the method of a cost names them."""
        if self.declared.truncated_batch_size is not None:
            return "poisson-truncated"
        if self.declared.max_examples_per_user is not None:
            return "poisson-user"
        return self.declared.sampling.replace("_", "-")

    @property
    def field(self) -> str:
        """Return the field that makes them what they are."""
        if self.declared.truncated_batch_size is not None:
            return "truncated_batch_size"
        return "sampling" if self.declared.max_examples_per_user is None else "max_examples_per_user"

    @property
    def are_resting_on_size(self) -> bool:
        """Return whether they assume a public number of units."""
        return self.declared.sampling != "poisson" or self.declared.truncated_batch_size is not None

    @property
    def are_estimated(self) -> bool:
        """Return whether the central-limit formulas are about them."""
        return self.name in ("poisson", "fixed-size")

    def release_sq(self, adjacency: Adjacency) -> int:
        """Return the square of the most clip norms that a unit moves a step's sum by, if who is sampled is known.

        A step without sampling is one Gaussian release of that, by joint convexity.
        """
        # Replacing a unit moves its clipped gradient by up to 2C, and so does taking the place of another one. A unit
        # without data is sampled like the others.
        is_twice = adjacency == "replace_one" or (self._are_in_place(adjacency) and adjacency == "add_or_remove_one")
        return 4 if is_twice else (self.declared.max_examples_per_user or 1) ** 2

    def again_sq(self, adjacency: Adjacency) -> int:
        """Return the same for a step that is repeated with the same batch: the rest of it may be known, but not whether
        the unit is in it, or in whose place."""
        return 4 if self._are_in_place(adjacency) else self.release_sq(adjacency)

    def _are_in_place(self, adjacency: Adjacency) -> bool:
        """Return whether a unit in a batch takes the place of another one.

        The published convention, of fixed_size under add_or_remove_one without dataset_size_min, does not count that;
        it is no certificate.
        """
        if self.name == "fixed-size":
            return adjacency != "add_or_remove_one" or self.declared.dataset_size_min is not None
        return self.name == "poisson-truncated"

    # --- certificates

    def pair(self, noise_multiplier: Fraction, adjacency: Adjacency, *, path: str) -> Pair | None:
        """Return the dominating pair of one step, rounded so that it costs no less; None if sampling hides nothing.

        Raises InvalidMechanism if none is known.
        """
        self._demand_supported(adjacency, path)
        declared, noise = self.declared, certify.at_most(noise_multiplier)
        rate = certify.at_least(self._rate)
        cap, size = declared.truncated_batch_size, declared.dataset_size
        if cap is not None and size is None:
            raise ValueError("capped batches of an unknown number of units")
        is_hidden = rate < 1 or (cap is not None and cap < (size or 1))
        if noise < certify.NOISE_MULTIPLIER_MIN or not is_hidden:
            return None
        records = declared.max_examples_per_user
        if records is not None and not sampling.is_within_reach(
            noise_multiplier=noise, sample_rate=rate, records=records
        ):
            return None
        return certify.pair_for(
            noise_multiplier=noise,
            sample_rate=min(rate, 1.0),
            adjacency=adjacency,
            sampling="poisson" if declared.sampling == "poisson" else "fixed_size",
            records=records,
            cap=None if cap is None or size is None else certify.Cap(cap, size),
            is_least_size_public=declared.dataset_size_min is not None,
        )

    @property
    def _rate(self) -> Fraction:
        """Return the most that the probability of a unit to be in a batch can be."""
        if self.declared.dataset_size_min is not None and self.declared.batch_size is not None:
            return Fraction(self.declared.batch_size, self.declared.dataset_size_min)
        return self.declared.rate

    def _demand_supported(self, adjacency: Adjacency, path: str) -> None:
        declared = self.declared
        if declared.max_examples_per_user is not None and adjacency == "replace_one":
            raise unsupported(
                "no certified cost is known under replace_one of several records of one user that are sampled apart; "
                "the proof is for a user who is added, removed or left without data: use a dataset with adjacency "
                "add_or_remove_one or zero_out",
                field=f"{path}.max_examples_per_user",
            )
        if declared.sampling != "fixed_size":
            return
        if adjacency == "add_or_remove_one" and declared.dataset_size_min is None:
            raise unsupported(
                "a certified cost of fixed_size sampling under add_or_remove_one needs dataset_size_min, a public "
                "lower bound of the number of units: with one unit more, a batch has that unit with probability "
                "at most batch size/dataset_size_min. The sampler must draw each batch uniformly without replacement, "
                "of at most sample_rate * dataset_size_min units",
                field=f"{path}.dataset_size_min",
            )
        if adjacency != "add_or_remove_one" and declared.dataset_size_min is not None:
            raise unsupported(
                f"under {adjacency} the number of units is public; leave dataset_size_min out",
                field=f"{path}.dataset_size_min",
            )

    def refuse_estimate(self, path: str) -> None:
        """Raise InvalidMechanism if no estimate is known of them."""
        if not self.are_estimated:
            raise unsupported(
                f"no central-limit estimate is known of {self.name} batches; use a dataset with the bound certified",
                field=f"{path}.{self.field}",
            )

    # --- assumptions

    def assumption(self, adjacency: Adjacency) -> str:
        """Return the assumption about them."""
        match self.name:
            case "poisson":
                return (
                    "each unit is in a batch independently with probability sample_rate; no cap on the batch size "
                    "(batches that are cut need truncated_batch_size), and one record of each unit (more that are "
                    "sampled apart need max_examples_per_user)"
                )
            case "poisson-truncated":
                return self._truncated(adjacency)
            case "poisson-user":
                return (
                    "a unit is a user with at most max_examples_per_user records; each record is in a batch "
                    "independently with probability sample_rate, and is clipped by itself; no cap on the batch size"
                )
            case _:
                return self._fixed_size(adjacency)

    def _truncated(self, adjacency: Adjacency) -> str:
        size = {
            "add_or_remove_one": "there are dataset_size units, and its neighbours have one more or one fewer",
            "replace_one": "there are dataset_size units, which is public",
            "zero_out": "there are dataset_size units, which is public; a unit without data is sampled like the others",
        }[adjacency]
        return (
            "each unit is in a sample independently with probability sample_rate; a sample of more than "
            "truncated_batch_size units is cut to a uniformly random part of that size, afresh every step; a unit in "
            f"the place of another one moves the sum of clipped gradients by up to 2C; {size}"
        )

    def _fixed_size(self, adjacency: Adjacency) -> str:
        if adjacency == "replace_one":
            return (
                "batches of a fixed size are drawn uniformly without replacement, anew at each step; replacing a unit "
                "moves the sum of clipped gradients by up to 2C"
            )
        if adjacency == "zero_out":
            return (
                f"{_FIXED}, from a public number of units; a unit without data is drawn like the others, and one in "
                "the place of another one moves the sum of clipped gradients by up to 2C"
            )
        if self.declared.dataset_size_min is None:
            return (
                "batches of a fixed size are drawn uniformly without replacement; noise_multiplier is used as it "
                "stands, the published convention for add_or_remove_one"
            )
        return (
            f"{_FIXED}; there are always at least dataset_size_min units, and a batch has at most sample_rate times as "
            "many; a unit that is added takes the place of another one in a batch, which moves the sum of clipped "
            "gradients by up to 2C"
        )
