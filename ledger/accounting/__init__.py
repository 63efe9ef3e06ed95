"""Pure mathematics: from a mechanism to its cost, from a cost to epsilon, from a budget to a limit.

    gdp            mu-GDP and its (epsilon, delta) curve, trade-off function and attack rates
    clt            the central-limit estimates of DP-SGD
    closed_forms   pure DP and Laplace as GDP
    zcdp           zCDP as GDP
    disclosure     what an amount reveals: epsilon, and the success of an attacker
    strategies     sensitivity of matrix factorizations
    pld            privacy loss distributions of one step of DP-SGD, on a grid
    mixtures       pairs of several records of a user, and pairs that a public event picks
    sampling       the pair of a step, by how batches are drawn
    binomial       bounds of the tails of a binomial distribution
    single         the trade-off function of one step
    composition    many steps together, by FFT, with every error bounded
    certify        the trade-off function of many steps, from below
    certificate    certificates: a proved mu for a share of delta
    profiles       the hockey-stick divergence of a pair, from above, at some points
    smoothing      what a pair costs beside Gaussian noise that is still to come
    residual       what a run costs beside what is left of a budget
    beside         a run's table of these, for the decision
    deadline       when a computation must end
    numbers        numbers as they were written, without rounding
    amounts        from exact or bounded quantities to integer amounts, outward
    terms          what a cost depends on
    cost           a cost, and what it assumes
    pairs          what a mechanism is made of, for exact composition
    restarts       steps that were run again, and their cost
    axes           the allowed values of a parameter, in order of their cost
    mechanisms/    what a run declares, and its cost: a module for each mechanism
    costs          the cost of any mechanism, under terms
    settling       the charge of a run that has ended
    budgets        what a steward declares, and the limit that follows
    plan           the inverse of `costs`: what would fit
    exact          the cost of many runs together, composed exactly: for information

Nothing here knows a database, a clock or HTTP.
"""

from typing import Final

ACCOUNTANT: Final = "gdp-5"
"""The name of the rules by which costs are computed. It changes whenever a cost could change."""
