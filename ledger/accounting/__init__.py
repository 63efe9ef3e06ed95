"""Pure mathematics: from a mechanism to its cost, from a cost to epsilon, from a budget to a limit.

    gdp            mu-GDP and its (epsilon, delta) curve, trade-off function and attack rates
    clt            the central-limit estimates of DP-SGD
    closed_forms   pure DP and Laplace as GDP
    zcdp           zCDP as GDP
    disclosure     what an amount lets out: epsilon, and what an attacker can do
    strategies     sensitivity of matrix factorizations
    pld            privacy loss distributions of one step of DP-SGD, on a grid
    composition    many steps together, by FFT, with every error bounded
    certify        the trade-off function of many steps, from below
    certificate    certificates: a proved mu for a share of delta
    profiles       the hockey-stick divergence of a pair, from above, at some points
    smoothing      what a pair costs beside Gaussian noise that is still to come
    residual       what a run costs beside what is left of a budget
    deadline       when a computation has to end
    numbers        numbers as they were written, exactly
    amounts        from exact or bounded quantities to integer amounts, outward
    terms          what a cost is asked under
    cost           a cost, and what has to hold for it
    pairs          what a mechanism is made of, for exact composition
    restarts       steps that were run again, and what they come to
    axes           the values of a parameter that may be named, in order of what they cost
    mechanisms/    what a run declares, and what it costs: a module for each mechanism
    costs          the cost of any of them, under terms
    settling       what it is charged when it has ended
    budgets        what a steward declares, and its limit
    plan           the inverse: what would fit
    exact          what runs amount to together, composed exactly: for information

Nothing here knows a database, a clock or HTTP.
"""

from typing import Final

ACCOUNTANT: Final = "gdp-4"
"""Names the rules by which costs were worked out. It changes whenever a cost could come out otherwise."""
