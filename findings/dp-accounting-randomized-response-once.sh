#!/usr/bin/env bash
# dp-accounting 0.6.0, seen on 2026-11-29: repeated randomized response is charged once.
#
# Believed: PLDAccountant.compose(event, 10), or SelfComposedDpEvent(event, 10), charges ten releases.
# Happens: for RandomizedResponseDpEvent the epsilon is that of one release, whatever the count.
# Who is hurt: anyone who accounts for repeated surveys or label flips of the same people: ten releases of epsilon
# log(3) each cost up to 10.99, and 1.0987 is reported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dp-accounting==0.6.0
"$folder/venv/bin/python" - <<'PYTHON'
import math

import dp_accounting
from dp_accounting import pld

DELTA, KEEP = 1e-5, 0.75
event = dp_accounting.dp_event.RandomizedResponseDpEvent(noise_parameter=0.5, num_buckets=2)


def epsilon(composed, count):
    accountant = pld.PLDAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    accountant.compose(composed, count)
    return accountant.get_epsilon(DELTA)


def lost(count, at):
    """The exact delta at this epsilon: of `count` answers, each kept with probability KEEP and flipped otherwise."""
    ratio = math.log(KEEP / (1 - KEEP))
    return sum(
        math.comb(count, kept) * KEEP**kept * (1 - KEEP) ** (count - kept) * (1 - math.exp(at - (2 * kept - count) * ratio))
        for kept in range(count + 1)
        if (2 * kept - count) * ratio > at
    )


once, ten = epsilon(event, 1), epsilon(event, 10)
composed = epsilon(dp_accounting.SelfComposedDpEvent(event, 10), 1)
print(f"one release: epsilon {once:.4f}; ten: {ten:.4f}; SelfComposedDpEvent of ten: {composed:.4f}")
print(f"exact delta of ten releases at epsilon {ten:.4f}: {lost(10, ten):.4f}, not {DELTA}")
assert once == ten == composed
assert lost(10, ten) > 0.5 and lost(1, once) <= DELTA
print("still so")
PYTHON
