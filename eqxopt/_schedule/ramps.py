"""Schedules that stay, or go straight from one value to another."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._number import nonnegative_number, Number, positive_number, real_number
from .abstract import AbstractSchedule


class Constant(AbstractSchedule):
    """The same value at every step.

    **Arguments:**

    - `value`: that value.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> print(schedules.Constant(0.5)(100))
        0.5

        ```
    """

    value: Number = eqx.field(converter=real_number)

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        return self.value


class Linear(AbstractSchedule):
    r"""A straight line from one value to another, constant before and after.

    $$
    v_0 + (v_1 - v_0)\, \mathrm{clip}((t - b) / T, 0, 1)
    $$

    **Arguments:**

    - `init_value`: $v_0$.
    - `end_value`: $v_1$.
    - `transition_steps`: $T > 0$, the steps from the one to the other.
    - `transition_begin`: $b \ge 0$, the step at which the line starts. Default 0.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> print(schedules.Linear(0.0, 1.0, transition_steps=100)(25))
        0.25

        ```
    """

    init_value: Number = eqx.field(converter=real_number)
    end_value: Number = eqx.field(converter=real_number)
    transition_steps: Number = eqx.field(converter=positive_number)
    transition_begin: Number = eqx.field(converter=nonnegative_number, default=0)

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        elapsed = jnp.asarray(step, dtype=float) - self.transition_begin
        done = jnp.clip(elapsed / self.transition_steps, 0, 1)
        return self.init_value + (self.end_value - self.init_value) * done
