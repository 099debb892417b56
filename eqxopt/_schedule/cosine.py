"""Schedules that fall along half a cosine."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu

from .._math import half_cosine, lerp, ramp
from .._number import check_increasing, Number, number
from .._types import Scalar
from .abstract import AbstractSchedule, Step


class CosineDecay(AbstractSchedule):
    r"""Half a cosine from a value down to a fraction of it, constant after.

    $$
    v_0 \left( (1 - a) \left( \tfrac12 + \tfrac12 \cos(\pi \min(t / T, 1)) \right)^p
        + a \right)
    $$

    **Arguments:**

    - `init_value`: $v_0$.
    - `decay_steps`: $T$, the steps until the end is reached, in (0, inf).
    - `alpha`: $a$, the end as a fraction of `init_value`. Default 0.
    - `exponent`: $p$, in (0, inf). Default 1.

    **Source:** that of [`SGDR`][eqxopt.schedules.SGDR].
    """

    init_value: Number = number("(-inf, inf)")
    decay_steps: Number = number("(0, inf)")
    alpha: Number = number("(-inf, inf)", default=0.0)
    exponent: Number = number("(0, inf)", default=1.0)

    def __call__(self, step: Step) -> Scalar:
        done = ramp(jnp.asarray(step, dtype=float), 0.0, self.decay_steps)
        end = self.alpha * self.init_value
        return lerp(end, self.init_value, half_cosine(done, self.exponent))


class WarmupCosineDecay(AbstractSchedule):
    r"""A straight line up to a peak, then half a cosine down, then constant.

    **Arguments:**

    - `init_value`: the value at step 0.
    - `peak_value`: the value at the end of the warm-up.
    - `warmup_steps`: the length of the warm-up, in [0, inf).
    - `decay_steps`: the whole length, warm-up included; more than `warmup_steps`.
    - `end_value`: the value at the end and after. Default 0.
    - `exponent`: the power to which the half cosine is raised, in (0, inf). Default 1.

    **Raises:** a `ValueError` if `decay_steps` is not more than `warmup_steps`.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.WarmupCosineDecay(0.0, 1.0, 10, 110)
        >>> print(*(f"{rate(step):.2f}" for step in (5, 10, 60, 110)))
        0.50 1.00 0.50 0.00

        ```
    """

    init_value: Number = number("(-inf, inf)")
    peak_value: Number = number("(-inf, inf)")
    warmup_steps: Number = number("[0, inf)")
    decay_steps: Number = number("(0, inf)")
    end_value: Number = number("(-inf, inf)", default=0.0)
    exponent: Number = number("(0, inf)", default=1.0)

    def __check_init__(self) -> None:
        check_increasing(self, "warmup_steps", "decay_steps")

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        up = lerp(self.init_value, self.peak_value, ramp(t, 0.0, self.warmup_steps))
        done = ramp(t, self.warmup_steps, self.decay_steps - self.warmup_steps)
        down = lerp(self.end_value, self.peak_value, half_cosine(done, self.exponent))
        return jnp.where(t < self.warmup_steps, up, down)


class SGDR(AbstractSchedule):
    r"""Cosine decay with warm restarts: cycles of
    [`WarmupCosineDecay`][eqxopt.schedules.WarmupCosineDecay], one after the other. It
    holds the last value. The field `cycles` has the cycles as schedules.

    **Arguments:**

    - `cosine_kwargs`: for each cycle a dictionary of the arguments of
        `WarmupCosineDecay`. Its `decay_steps` is the length of the cycle.

    **Raises:** a `ValueError` if there is no cycle.

    **Source:** Loshchilov and Hutter, [SGDR: Stochastic Gradient Descent with Warm
    Restarts](https://arxiv.org/abs/1608.03983), 2017.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.SGDR(
        ...     dict(init_value=0, peak_value=p, warmup_steps=5, decay_steps=d)
        ...     for p, d in [(1.0, 50), (0.5, 100), (0.25, 200)]
        ... )
        >>> print(*(rate(step) for step in (5, 50, 55, 155)))
        1.0 0.0 0.5 0.25

        ```
    """

    cycles: tuple[WarmupCosineDecay, ...]

    def __init__(self, cosine_kwargs: Iterable[Mapping[str, Any]]):
        self.cycles = tuple(WarmupCosineDecay(**kwargs) for kwargs in cosine_kwargs)
        if not self.cycles:
            raise ValueError("`SGDR(cosine_kwargs=...)` must have at least one cycle")

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        stacked = jtu.tree_map(lambda *numbers: jnp.stack(numbers), *self.cycles)
        ends = jnp.cumulative_sum(stacked.decay_steps, include_initial=True)
        i = jnp.sum(t >= ends[1:-1])
        cycle = jtu.tree_map(lambda numbers: numbers[i], stacked)
        return cycle(t - ends[i])
