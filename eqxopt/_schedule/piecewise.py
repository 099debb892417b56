"""Schedules that go through given values at given steps."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._math import half_cosine, lerp, ramp
from .._number import check_increasing, Number, number, Numbers, numbers
from .._types import Scalar
from .abstract import AbstractSchedule, Step


class PiecewiseConstant(AbstractSchedule):
    """A value that jumps at some steps.

    **Arguments:**

    - `init_value`: the value before the first jump.
    - `boundaries`: the steps of the jumps, in [0, inf) and increasing.
    - `values`: the value from each of these steps on. optax takes factors instead,
        of which these are the products.

    **Raises:** a `ValueError` unless `boundaries` increase and are as many as `values`.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.PiecewiseConstant(0.5, (100, 200), (0.25, 0.125))
        >>> print(*(rate(step) for step in (99, 100, 199, 200)))
        0.5 0.25 0.25 0.125

        ```
    """

    init_value: Number = number("(-inf, inf)")
    boundaries: Numbers = numbers("[0, inf)")
    values: Numbers = numbers("(-inf, inf)")

    def __check_init__(self) -> None:
        _check_pieces(self)

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        return _from(self.init_value, self.values)[jnp.sum(t >= self.boundaries)]


class PiecewiseInterpolate(AbstractSchedule):
    r"""Given values at given steps, with lines or half cosines from each to the next.

    **Arguments:**

    - `interpolate_type`: `"linear"` or `"cosine"`.
    - `init_value`: the value at step 0.
    - `boundaries`: steps, in [0, inf) and increasing.
    - `values`: the value at each of these steps; the last one stays. optax takes
        factors instead, of which these are products; there only 0 can follow 0.

    **Raises:** a `ValueError` for another `interpolate_type`, or if `boundaries` do
    not increase, or are not as many as `values`.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.PiecewiseInterpolate("linear", 0.0, (10, 50), (1.0, 0.5))
        >>> print(*(rate(step) for step in (0, 5, 10, 30, 50)))
        0.0 0.5 1.0 0.75 0.5

        ```
    """

    interpolate_type: str = eqx.field(static=True)
    init_value: Number = number("(-inf, inf)")
    boundaries: Numbers = numbers("[0, inf)")
    values: Numbers = numbers("(-inf, inf)")

    def __check_init__(self) -> None:
        if self.interpolate_type not in _CURVES:
            raise ValueError(
                f"`PiecewiseInterpolate({self.interpolate_type!r}, ...)`: "
                f"`interpolate_type` must be one of {', '.join(map(repr, _CURVES))}"
            )
        _check_pieces(self)

    def __call__(self, step: Step) -> Scalar:
        corners = _from(jnp.zeros_like(self.init_value), self.boundaries)
        values = _from(self.init_value, self.values)
        return _interpolated(step, corners, values, self.interpolate_type)


class OneCycleLinear(AbstractSchedule):
    r"""One cycle in three lines: up to a peak, back, and further down to the end. With
    the peak $v$, the length $T$ and the factors $d$ and $f$, it goes through

    $$
    (0, v / d), \quad (p_1 T, v), \quad (p_2 T, v / d), \quad (T, v / (d f))
    $$

    and stays at the end. optax rounds these steps down to integers.

    **Arguments:**

    - `transition_steps`: $T$, in (0, inf).
    - `peak_value`: $v$.
    - `pct_start`: $p_1$, the part until the peak, in [0, 1]. Default 0.3.
    - `pct_final`: $p_2$, the part until the value is back, in $(p_1, 1]$. Default 0.85.
    - `div_factor`: $d$, in (0, inf). Default 25.
    - `final_div_factor`: $f$, in (0, inf). Default 1e4.

    **Raises:** a `ValueError` if `pct_final` is not more than `pct_start`.

    **Source:** Smith and Topin, [Super-Convergence: Very Fast Training of Neural
    Networks Using Large Learning Rates](https://arxiv.org/abs/1708.07120), 2017.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.OneCycleLinear(100, 1.0)
        >>> print(*(f"{rate(step):.6f}" for step in (0, 30, 85, 100)))
        0.040000 1.000000 0.040000 0.000004

        ```
    """

    transition_steps: Number = number("(0, inf)")
    peak_value: Number = number("(-inf, inf)")
    pct_start: Number = number("[0, 1]", default=0.3)
    pct_final: Number = number("[0, 1]", default=0.85)
    div_factor: Number = number("(0, inf)", default=25.0)
    final_div_factor: Number = number("(0, inf)", default=1e4)

    def __check_init__(self) -> None:
        check_increasing(self, "pct_start", "pct_final")

    def __call__(self, step: Step) -> Scalar:
        length, peak = self.transition_steps, self.peak_value
        top, bottom = self.pct_start * length, self.pct_final * length
        low = peak / self.div_factor
        corners = jnp.stack([jnp.zeros_like(length), top, bottom, length])
        values = jnp.stack([low, peak, low, low / self.final_div_factor])
        return _interpolated(step, corners, values, "linear")


class OneCycleCosine(AbstractSchedule):
    r"""One cycle in two half cosines: up to a peak, and down to the end. It is
    [`OneCycleLinear`][eqxopt.schedules.OneCycleLinear] with other corners,

    $$
    (0, v / d), \quad (p T, v), \quad (T, v / (d f))
    $$

    **Arguments:**

    - `transition_steps`: $T$, in (0, inf).
    - `peak_value`: $v$.
    - `pct_start`: $p$, in [0, 1]. Default 0.3.
    - `div_factor`: $d$, in (0, inf). Default 25.
    - `final_div_factor`: $f$, in (0, inf). Default 1e4.

    **Source:** that of [`OneCycleLinear`][eqxopt.schedules.OneCycleLinear].

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.OneCycleCosine(100, 1.0)
        >>> print(*(f"{rate(step):.6f}" for step in (0, 15, 30, 100)))
        0.040000 0.520000 1.000000 0.000004

        ```
    """

    transition_steps: Number = number("(0, inf)")
    peak_value: Number = number("(-inf, inf)")
    pct_start: Number = number("[0, 1]", default=0.3)
    div_factor: Number = number("(0, inf)", default=25.0)
    final_div_factor: Number = number("(0, inf)", default=1e4)

    def __call__(self, step: Step) -> Scalar:
        length, peak = self.transition_steps, self.peak_value
        low = peak / self.div_factor
        corners = jnp.stack([jnp.zeros_like(length), self.pct_start * length, length])
        values = jnp.stack([low, peak, low / self.final_div_factor])
        return _interpolated(step, corners, values, "cosine")


_CURVES = {"linear": lambda done: done, "cosine": lambda done: half_cosine(1 - done)}


def _from(first: Scalar, rest: Float[Array, " n"]) -> Float[Array, " n+1"]:
    return jnp.concatenate([first[None], rest])


def _interpolated(
    step: Step, corners: Float[Array, " n"], values: Float[Array, " n"], curve: str
) -> Scalar:
    t = jnp.asarray(step, dtype=float)
    i = jnp.maximum(jnp.sum(t >= corners) - 1, 0)
    # From the last corner to itself is a jump, which is done.
    j = jnp.minimum(i + 1, len(corners) - 1)
    done = ramp(t, corners[i], corners[j] - corners[i])
    return lerp(values[i], values[j], _CURVES[curve](done))


def _check_pieces(schedule: PiecewiseConstant | PiecewiseInterpolate) -> None:
    boundaries, values = len(schedule.boundaries), len(schedule.values)
    if boundaries != values:
        raise ValueError(
            f"`{type(schedule).__name__}` has {boundaries} `boundaries` and {values} "
            "`values`; it must have a value for each boundary"
        )
    check_increasing(schedule, "boundaries")
