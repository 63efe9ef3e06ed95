#!/usr/bin/env bash
# jax-privacy 2.0.0 with Python 3.12, seen on 2026-11-30: without a key, two privatizers can add the same noise.
#
# Believed: with prng_key=None (noise_seed=None of a plan) each privatizer gets a fresh key, and JAX takes nothing from global state.
# Happens: the key is made of numpy.random.randint(0, 2**31), of NumPy's global generator. A script that calls numpy.random.seed,
# as for the split of its data, has the same noise in each run and after each restart; without it, a key has 31 bits.
# Who is hurt: trainings that are repeated or resumed with a seeded script: differences of two runs have no noise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.12 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax-privacy==2.0.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
from jax_privacy import noise_addition

zeros, noises = jnp.zeros(4), []
for _ in range(2):
    np.random.seed(0)  # before a split of the data
    privatizer = noise_addition.gaussian_privatizer(stddev=1.0)
    noise, _ = privatizer.update(zeros, privatizer.init(zeros))
    noises.append(np.asarray(noise))
    print("the noise of a new privatizer:", noises[-1])
assert np.array_equal(*noises), "no longer so"
print("still so")
PYTHON
