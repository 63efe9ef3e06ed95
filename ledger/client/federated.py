"""A federated round as a mechanism: a noisy mean of the clipped updates of as many clients as the noise is for.

The unit is a client, or a record at one client. With n clients of equal weight, clipped to C, and noise of deviation
z C / n on their mean:

- Putting nothing in a client's place (zero_out) moves the mean by C / n. Replacing one moves it by 2 C / n, and so does
  removing one, because another is drawn in its place.
- A record changes the update of its client, from one of norm C at most to another: 2 C / n, whatever the adjacency.
- Drawing n of at least N clients without replacement amplifies a whole round, as `fixed_size` sampling. What a client
  does within a round is one release, however many local steps it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any, Final

from ledger.client.attached import Attached, NotCovered
from ledger.client.ledgers import Ledger
from ledger.client.mechanisms import DPSGD, AnyMechanism, Gaussian

_DOWN: Final = Context(prec=12, rounding=ROUND_FLOOR)
_UP: Final = Context(prec=10, rounding=ROUND_CEILING)


class Rounds(Attached):
    """The run of a federated training: one step for each round that is sent.

    noised: rounds whose mean got noise. skipped: rounds that released nothing, since clients were missing.
    """

    rules_out: tuple[str, ...]

    def __init__(self, dataset: Any, ledger: Ledger | None, options: Mapping[str, Any]) -> None:
        super().__init__(dataset, ledger, options)
        self.noised = self.skipped = 0

    def differences(self) -> list[str]:
        """Return how the rounds that were sent differ from the approved ones, and from those that got noise."""
        found, sent = super().differences(), self.run.steps_here
        if self.noised + self.skipped != sent:
            found.append(f"{sent} rounds were sent, {self.noised} got noise, {self.skipped} were left out")
        return found

    def at_end(self) -> dict[str, Any]:
        return {"rounds": self.run.steps, "released": self.noised, "rules_out": sorted(self.rules_out)}


def round_mechanism(
    terms: Mapping[str, Any], *, noise_multiplier: Decimal, clients: int, population: int | None, rounds: int
) -> AnyMechanism:
    """Return the mechanism of these rounds. noise_multiplier: over the clip norm, on the sum. terms: of the dataset.

    population: a public lower bound of the number of clients that a round draws from, None to claim no amplification.
    Raises NotCovered if a population is given and records are the units, or is smaller than a round.
    """
    adjacency, unit = str(terms["adjacency"]), str(terms["privacy_unit"])
    if population is None or (population == clients and adjacency != "add_or_remove_one"):
        moves_once = adjacency == "zero_out" and unit != "record"
        noise = noise_multiplier if moves_once else _DOWN.divide(noise_multiplier, Decimal(2))
        return Gaussian(noise_multiplier=noise, count=rounds)
    if unit == "record":
        raise NotCovered(
            "population: the units of this dataset are records, and a round draws clients. No amplification is known"
            " here of a record by the draw of its client. Leave out population."
        )
    if population < clients:
        raise NotCovered(f"population: {population} is less than the {clients} clients of a round.")
    return DPSGD(
        noise_multiplier=noise_multiplier,
        sample_rate=_UP.divide(Decimal(clients), Decimal(population)),
        steps=rounds,
        sampling="fixed_size",
        dataset_size_min=population if adjacency == "add_or_remove_one" else None,
    )
