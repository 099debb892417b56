"""Schedules that fall along half a cosine."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._number import nonnegative_number, Number, positive_number, real_number
from .abstract import AbstractSchedule


class CosineDecay(AbstractSchedule):
    r"""Half a cosine from a value down to a fraction of it, constant after.

    $$
    v_0 \left( (1 - a) \left( \tfrac12 + \tfrac12 \cos(\pi \min(t / T, 1)) \right)^p
        + a \right)
    $$

    **Arguments:**

    - `init_value`: $v_0$.
    - `decay_steps`: $T > 0$, the steps until the end is reached.
    - `alpha`: $a$, the end as a fraction of `init_value`. Default 0.
    - `exponent`: $p > 0$. Default 1.

    **Source:** Loshchilov and Hutter, [SGDR: Stochastic Gradient Descent with Warm
    Restarts](https://arxiv.org/abs/1608.03983), 2017.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> print(f"{schedules.CosineDecay(1.0, decay_steps=100)(50):.2f}")
        0.50

        ```
    """

    init_value: Number = eqx.field(converter=real_number)
    decay_steps: Number = eqx.field(converter=positive_number)
    alpha: Number = eqx.field(converter=real_number, default=0.0)
    exponent: Number = eqx.field(converter=positive_number, default=1.0)

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        done = jnp.clip(jnp.asarray(step, dtype=float) / self.decay_steps, 0, 1)
        end = self.alpha * self.init_value
        return end + (self.init_value - end) * _half_cosine(done, self.exponent)


class WarmupCosineDecay(AbstractSchedule):
    r"""A straight line up to a peak, then half a cosine down, then constant.

    **Arguments:**

    - `init_value`: the value at step 0.
    - `peak_value`: the value at the end of the warm-up.
    - `warmup_steps`: the steps from the one to the other, at least 0.
    - `decay_steps`: the steps of the whole, warm-up included; more than
        `warmup_steps`.
    - `end_value`: the value at the end and after. Default 0.
    - `exponent`: the power, > 0, to which the half cosine is raised. Default 1.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.WarmupCosineDecay(0.0, 1.0, 10, 110)
        >>> print(*(f"{rate(step):.2f}" for step in (5, 10, 60, 110)))
        0.50 1.00 0.50 0.00

        ```
    """

    init_value: Number = eqx.field(converter=real_number)
    peak_value: Number = eqx.field(converter=real_number)
    warmup_steps: Number = eqx.field(converter=nonnegative_number)
    decay_steps: Number = eqx.field(converter=positive_number)
    end_value: Number = eqx.field(converter=real_number, default=0.0)
    exponent: Number = eqx.field(converter=positive_number, default=1.0)

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, dtype=float)
        risen = jnp.clip(step / jnp.maximum(self.warmup_steps, 1), 0, 1)
        up = self.init_value + (self.peak_value - self.init_value) * risen
        length = self.decay_steps - self.warmup_steps
        done = jnp.clip((step - self.warmup_steps) / length, 0, 1)
        fall = (self.peak_value - self.end_value) * _half_cosine(done, self.exponent)
        return jnp.where(step < self.warmup_steps, up, self.end_value + fall)


def _half_cosine(
    done: Float[Array, ""], exponent: Float[Array, ""]
) -> Float[Array, ""]:
    r"""$(\frac12 + \frac12 \cos(\pi d))^p$, from 1 to exactly 0."""
    # As a square the base is never negative, nor exactly 0, where a power need not
    # have a derivative.
    height = jnp.square(jnp.cos(0.5 * jnp.pi * done))
    return jnp.where(done < 1, height**exponent, 0)
