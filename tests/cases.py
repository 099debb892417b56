"""The case table: every optimizer, and how the suites make and drive one."""

from collections.abc import Callable
from dataclasses import dataclass

import eqxopt


@dataclass(frozen=True)
class Case:
    """How to make an optimizer, and what its rule asks for.

    `make` uses options that bring every part of the rule into play. `complex` and
    `elementwise` say what the rule allows; `smooth` whether its updates move smoothly
    with its hyperparameters, so that finite differences mean something; `coupled`
    whether a parameter's update depends on the other parameters; `value` whether it
    needs the loss.
    """

    make: Callable[[], eqxopt.AbstractOptimizer]
    complex: bool = True
    elementwise: bool = True
    smooth: bool = True
    coupled: bool = False
    value: bool = False


CASES: dict[str, Case] = {
    "Adam": Case(lambda: eqxopt.Adam(0.01, nesterov=True)),
    "AdamW": Case(lambda: eqxopt.AdamW(0.01, weight_decay=0.1)),
    "SGD": Case(lambda: eqxopt.SGD(0.01, momentum=0.9, nesterov=True)),
}
