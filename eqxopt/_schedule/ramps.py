"""Schedules that go from one value to another along a line or a power of it."""

import jax.numpy as jnp

from .._math import lerp, ramp
from .._number import Number, number
from .._types import Scalar
from .abstract import AbstractSchedule, Step


class Linear(AbstractSchedule):
    r"""A straight line from one value to another, constant before and after.

    $$
    v_0 + (v_1 - v_0)\, \mathrm{clip}((t - b) / T, 0, 1)
    $$

    **Arguments:**

    - `init_value`: $v_0$.
    - `end_value`: $v_1$.
    - `transition_steps`: $T$, the steps from the one to the other, in (0, inf).
    - `transition_begin`: $b$, the step at which it starts, in [0, inf). Default 0.
    """

    init_value: Number = number("(-inf, inf)")
    end_value: Number = number("(-inf, inf)")
    transition_steps: Number = number("(0, inf)")
    transition_begin: Number = number("[0, inf)", default=0)

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        done = ramp(t, self.transition_begin, self.transition_steps)
        return lerp(self.init_value, self.end_value, done)


class Polynomial(AbstractSchedule):
    r"""A power of a line from one value to another, constant before and after.

    $$
    v_1 + (v_0 - v_1) \left( 1 - \mathrm{clip}((t - b) / T, 0, 1) \right)^p
    $$

    **Arguments:**

    - `init_value`: $v_0$.
    - `end_value`: $v_1$.
    - `power`: $p$, in (0, inf). With 1 this is [`Linear`][eqxopt.schedules.Linear];
        above 1 the value moves fast first, below 1 fast at the end.
    - `transition_steps`: $T$, the steps from the one to the other, in (0, inf).
    - `transition_begin`: $b$, the step at which it starts, in [0, inf). Default 0.
    """

    init_value: Number = number("(-inf, inf)")
    end_value: Number = number("(-inf, inf)")
    power: Number = number("(0, inf)")
    transition_steps: Number = number("(0, inf)")
    transition_begin: Number = number("[0, inf)", default=0)

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        left = 1 - ramp(t, self.transition_begin, self.transition_steps)
        # A power below 1 has no derivative at 0.
        ended = left == 0
        fall = jnp.where(ended, 0, jnp.where(ended, 1, left) ** self.power)
        return lerp(self.end_value, self.init_value, fall)
