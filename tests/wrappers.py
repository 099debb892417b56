"""The table of wrappers: how the suites make each around any optimizer."""

from collections.abc import Callable

import eqxopt


WRAPPERS: dict[str, Callable[[eqxopt.AbstractOptimizer], eqxopt.AbstractOptimizer]] = {
    "Accumulate": lambda inner: eqxopt.Accumulate(inner, 2, drop_nonfinite=True),
    "Cautious": lambda inner: eqxopt.Cautious(inner),
    "CautiousWeightDecay": lambda inner: eqxopt.CautiousWeightDecay(inner, 0.1),
    "DecoupledWeightDecay": lambda inner: eqxopt.DecoupledWeightDecay(inner, 0.1),
    "DecoupledWeightDecay independent": lambda inner: eqxopt.DecoupledWeightDecay(
        inner, 0.1, convention="independent"
    ),
    "DecoupledWeightDecay l2": lambda inner: eqxopt.DecoupledWeightDecay(
        inner, 0.1, convention="l2"
    ),
    "EMA": lambda inner: eqxopt.EMA(inner, 0.9),
    "EMA biased": lambda inner: eqxopt.EMA(inner, 0.9, debias=False),
    "Lookahead": lambda inner: eqxopt.Lookahead(inner, 2, 0.8),
    "Lookahead reset": lambda inner: eqxopt.Lookahead(inner, 2, reset_state=True),
    "Monitor": lambda inner: eqxopt.Monitor(inner),
    "ReduceOnPlateau": lambda inner: eqxopt.ReduceOnPlateau(
        inner, 0.5, patience=1, cooldown=1
    ),
    "SkipNonFinite": lambda inner: eqxopt.SkipNonFinite(inner, max_consecutive=2),
}

INNER: dict[str, Callable[[], eqxopt.AbstractOptimizer]] = {
    "SGD": lambda: eqxopt.SGD(0.1, momentum=0.9),
    "AdamW": lambda: eqxopt.AdamW(0.1, weight_decay=0.1),
    "LAMB": lambda: eqxopt.LAMB(0.1, weight_decay=0.1),
}
