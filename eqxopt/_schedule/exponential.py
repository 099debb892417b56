"""Schedules that multiply by the same rate again and again."""

import equinox as eqx
import jax.numpy as jnp

from .._math import lerp, ramp
from .._number import Number, number, OptionalNumber
from .._types import Scalar
from .abstract import AbstractSchedule, Step


class ExponentialDecay(AbstractSchedule):
    r"""A value that is multiplied by a rate every so many steps, smoothly or at once.

    $$
    v_0\, r^{\max(t - b,\, 0) / T}
    $$

    **Arguments:**

    - `init_value`: $v_0$.
    - `transition_steps`: $T$, the steps for one factor $r$, in (0, inf).
    - `decay_rate`: $r$, in (0, inf). Above 1 the value grows.
    - `transition_begin`: $b$, the step at which it starts, in [0, inf). Default 0.
    - `staircase`: whether to round the exponent down to integers. Default `False`.
    - `end_value`: a bound, from below if $r < 1$ and else from above. Default `None`.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> halving = schedules.ExponentialDecay(1.0, 100, 0.5, end_value=0.2)
        >>> print(*(halving(step) for step in (0, 100, 200, 300)))
        1.0 0.5 0.25 0.2

        ```
    """

    init_value: Number = number("(-inf, inf)")
    transition_steps: Number = number("(0, inf)")
    decay_rate: Number = number("(0, inf)")
    transition_begin: Number = number("[0, inf)", default=0)
    staircase: bool = eqx.field(default=False, static=True)
    end_value: OptionalNumber = number("(-inf, inf)", default=None)

    def __call__(self, step: Step) -> Scalar:
        elapsed = jnp.asarray(step, dtype=float) - self.transition_begin
        return _decayed(self, self.init_value, elapsed)


class WarmupExponentialDecay(AbstractSchedule):
    r"""A straight line up to a peak, then
    [`ExponentialDecay`][eqxopt.schedules.ExponentialDecay].

    **Arguments:**

    - `init_value`: the value at step 0.
    - `peak_value`: the value at the end of the warm-up.
    - `warmup_steps`: the length of the warm-up, in [0, inf).
    - `transition_steps`: $T$ of the decay, in (0, inf).
    - `decay_rate`: $r$ of the decay, in (0, inf).
    - `transition_begin`: how many steps the peak is held, in [0, inf). Default 0.
    - `staircase`: whether the decay moves every $T$ steps only. Default `False`.
    - `end_value`: the bound of the decay. Default `None`, no bound.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.WarmupExponentialDecay(0.0, 1.0, 10, 100, 0.5)
        >>> print(*(rate(step) for step in (5, 10, 110)))
        0.5 1.0 0.5

        ```
    """

    init_value: Number = number("(-inf, inf)")
    peak_value: Number = number("(-inf, inf)")
    warmup_steps: Number = number("[0, inf)")
    transition_steps: Number = number("(0, inf)")
    decay_rate: Number = number("(0, inf)")
    transition_begin: Number = number("[0, inf)", default=0)
    staircase: bool = eqx.field(default=False, static=True)
    end_value: OptionalNumber = number("(-inf, inf)", default=None)

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        up = lerp(self.init_value, self.peak_value, ramp(t, 0.0, self.warmup_steps))
        elapsed = t - self.warmup_steps - self.transition_begin
        down = _decayed(self, self.peak_value, elapsed)
        return jnp.where(t < self.warmup_steps, up, down)


def _decayed(
    schedule: ExponentialDecay | WarmupExponentialDecay, start: Scalar, elapsed: Scalar
) -> Scalar:
    times = jnp.maximum(elapsed, 0) / schedule.transition_steps
    if schedule.staircase:
        times = jnp.floor(times)
    value = start * schedule.decay_rate**times
    if schedule.end_value is None:
        return value
    decays = schedule.decay_rate < 1
    ended = jnp.where(decays, value <= schedule.end_value, value >= schedule.end_value)
    # Long after the end the power overflows, and so would its derivative.
    value = start * schedule.decay_rate ** jnp.where(ended, 0, times)
    return jnp.where(ended, schedule.end_value, value)
