#!/usr/bin/env bash
# flwr 1.42.0, seen on 2026-11-30: one client whose model did not change stops a server with fixed clipping.
#
# Believed: DifferentialPrivacyServerSideFixedClipping clips each update to a norm of at most clipping_norm, so that an update of
# zero stays zero.
# Happens: clip_inputs_inplace divides clipping_norm by the norm of the update. A client that returns the model as it got it, since it
# had no data, or a learning rate of 0, raises ZeroDivisionError, and the whole training ends.
# Who is hurt: every federation in which a client may have nothing to add. Its neighbour, fixedclipping_mod, has the same line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flwr==1.42.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from flwr.supercore.differential_privacy import compute_clip_model_update

model = [np.ones((3, 2), dtype=np.float32), np.zeros(2, dtype=np.float32)]
changed = [one + np.float32(0.5) for one in model]
compute_clip_model_update(changed, model, 0.1)
norm = np.sqrt(sum(np.sum((one - before) ** 2) for one, before in zip(changed, model, strict=True)))
print(f"an update of norm 1.4 is clipped to {norm:.3f}")
unchanged = [one.copy() for one in model]
try:
    compute_clip_model_update(unchanged, model, 0.1)
except ZeroDivisionError as error:
    print(f"an update of zero raises ZeroDivisionError: {error}")
    print("still so")
else:
    raise SystemExit("an update of zero is clipped: no longer so")
PYTHON
