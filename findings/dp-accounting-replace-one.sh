#!/usr/bin/env bash
# dp-accounting 0.6.0, seen on 2026-11-29: what "replace one" costs depends on the accountant.
#
# Believed: under NeighboringRelation.REPLACE_ONE both accountants count that replacing a record moves a sum of clipped
# vectors by twice the clip norm, so that a Gaussian of noise multiplier 2 costs as much as one of 1.
# Happens: PLDAccountant does so; RdpAccountant returns the epsilon of add-or-remove, about half of it.
# Who is hurt: anyone who composes GaussianDpEvent for fixed-size batches under REPLACE_ONE with the RDP accountant, the
# usual one in training libraries: the epsilon they report is half of the right one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dp-accounting==0.6.0
"$folder/venv/bin/python" - <<'PYTHON'
import dp_accounting
from dp_accounting import pld, rdp

DELTA = 1e-5
relations = dp_accounting.NeighboringRelation


def epsilon(kind, relation, noise_multiplier):
    accountant = kind(neighboring_relation=relation)
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier))
    return accountant.get_epsilon(DELTA)


seen = {
    (kind.__name__, relation.name): epsilon(kind, relation, 2.0)
    for kind in (rdp.RdpAccountant, pld.PLDAccountant)
    for relation in (relations.ADD_OR_REMOVE_ONE, relations.REPLACE_ONE)
}
for (kind, relation), value in seen.items():
    print(f"{kind:16} {relation:18} epsilon {value:.4f} at delta {DELTA}")
right = epsilon(pld.PLDAccountant, relations.ADD_OR_REMOVE_ONE, 1.0)
print(f"right for REPLACE_ONE: epsilon {right:.4f}, that of noise multiplier 1 under add-or-remove")
assert abs(seen["PLDAccountant", "REPLACE_ONE"] - right) < 0.01
assert seen["RdpAccountant", "REPLACE_ONE"] == seen["RdpAccountant", "ADD_OR_REMOVE_ONE"] < 0.6 * right
print("still so")
PYTHON
