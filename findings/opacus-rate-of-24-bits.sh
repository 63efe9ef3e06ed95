#!/usr/bin/env bash
# opacus 1.6.0 with torch 2.13.0, seen on 2026-11-30: small sample rates are drawn at a larger one.
#
# Believed: UniformWithReplacementSampler(sample_rate=q) draws each record with probability q.
# Happens: it compares torch.rand, a multiple of 2^-24, with q, so that the probability is q rounded up to such a multiple. A rate of
# 1e-7 draws with probability 1.19e-7, 19 % more; the accountant records 1e-7.
# Who is hurt: trainings on many millions of records. At 4e-6 (256 of 64 million) it is 1.3 %, at 1e-8 six times the rate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 opacus==1.6.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math

from opacus.utils.uniform_sampler import UniformWithReplacementSampler

RECORDS, DRAWS, RATE = 20_000_000, 40, 1e-8
sampler = UniformWithReplacementSampler(num_samples=RECORDS, sample_rate=RATE, steps=DRAWS)
drawn = sum(map(len, sampler))
believed, rounded = RECORDS * DRAWS * RATE, RECORDS * DRAWS * math.ceil(RATE * 2**24) / 2**24
print(f"rate {RATE}: {drawn} records were drawn; {believed:.0f} are believed, and {rounded:.0f} at the rate rounded up to 2^-24")
assert abs(drawn - rounded) < 5 * math.sqrt(rounded) < rounded - believed
print("still so")
PYTHON
