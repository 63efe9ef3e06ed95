#!/usr/bin/env bash
# PipelineDP 0.3.1 with dp-accounting 0.6.0, seen on 2026-11-30: with delta 0, PLD accounting ignores repetitions.
#
# Believed: request_budget(LAPLACE, count=10) shares the pipeline's epsilon among ten applications of the mechanism.
# Happens: PLDBudgetAccountant with total_delta=0 returns the noise of a single application, whatever the count.
# NaiveBudgetAccountant divides by it.
# Who is hurt: anyone with a pure-DP pipeline under PLD accounting: ten applications promise epsilon 1 and cost 10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pipeline-dp==0.3.1 dp-accounting==0.6.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math

import dp_accounting  # PipelineDP needs it for PLD accounting
from pipeline_dp.aggregate_params import MechanismType
from pipeline_dp.budget_accounting import NaiveBudgetAccountant, PLDBudgetAccountant

assert dp_accounting


def mechanism(kind, count):
    accountant = kind(total_epsilon=1.0, total_delta=0.0)
    asked = accountant.request_budget(MechanismType.LAPLACE, count=count)
    accountant.compute_budgets()
    return asked


# A Laplace mechanism of sensitivity 1 and scale b has epsilon 1/b; its standard deviation is b times the root of 2.
costs = {count: count * math.sqrt(2) / mechanism(PLDBudgetAccountant, count).noise_standard_deviation for count in (1, 10)}
naive = 10 * mechanism(NaiveBudgetAccountant, 10).eps
print(f"a total epsilon of 1: applied once {costs[1]:.3f}, ten times {costs[10]:.3f}; by NaiveBudgetAccountant {naive:.3f}")
assert math.isclose(costs[1], 1) and math.isclose(costs[10], 10) and math.isclose(naive, 1)
print("still so")
PYTHON
