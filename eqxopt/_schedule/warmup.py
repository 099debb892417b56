"""Schedules that rise along a line, then stay, and fall or not."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._math import divide, half_cosine, lerp, ramp, sqrt
from .._number import Number, number, OptionalNumber
from .._types import Scalar
from .abstract import AbstractSchedule, Step


class WarmupConstant(AbstractSchedule):
    """A straight line up to a peak, then constant.

    **Arguments:**

    - `init_value`: the value at step 0.
    - `peak_value`: the value at the end of the warm-up and after.
    - `warmup_steps`: the length of the warm-up, in [0, inf). With 0 the value is the
        peak from the start; in optax it is `init_value` for ever.
    """

    init_value: Number = number("(-inf, inf)")
    peak_value: Number = number("(-inf, inf)")
    warmup_steps: Number = number("[0, inf)")

    def __call__(self, step: Step) -> Scalar:
        done = ramp(jnp.asarray(step, dtype=float), 0.0, self.warmup_steps)
        return lerp(self.init_value, self.peak_value, done)


class InverseSquareRoot(AbstractSchedule):
    r"""A straight line up to a peak, then down with the inverse square root of the
    step, without an end.

    $$
    v_t =
    \begin{cases}
    v_0 + (v_1 - v_0)\, t / w & t < w \\
    v_1 / \sqrt{1 + (t - w) / s} & t \ge w
    \end{cases}
    $$

    With $s = w$, the default, the second case is $v_1 \sqrt{w / t}$.

    **Arguments:**

    - `init_value`: $v_0$, the value at step 0.
    - `peak_value`: $v_1$, the value at the end of the warm-up.
    - `warmup_steps`: $w$, in [0, inf).
    - `timescale`: $s$, in (0, inf). After $3s$ steps the value is half the peak.
        Default `None`, for $s = w$.

    **Raises:** a `ValueError` if `warmup_steps` is 0 and there is no `timescale`.

    **Source:** Vaswani et al., [Attention Is All You
    Need](https://arxiv.org/abs/1706.03762), 2017, section 5.3, which starts from 0
    and has no `timescale`.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.InverseSquareRoot(0.0, 1.0, warmup_steps=100)
        >>> print(*(rate(step) for step in (50, 100, 400, 1600)))
        0.5 1.0 0.5 0.25

        ```
    """

    init_value: Number = number("(-inf, inf)")
    peak_value: Number = number("(-inf, inf)")
    warmup_steps: Number = number("[0, inf)")
    timescale: OptionalNumber = number("(0, inf)", default=None)

    def __check_init__(self) -> None:
        known = not isinstance(self.warmup_steps, Tracer)
        if self.timescale is None and known and np.asarray(self.warmup_steps) == 0:
            raise ValueError(
                "`InverseSquareRoot(warmup_steps=0)`: without a warm-up give "
                "`timescale`, in steps"
            )

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        scale = self.warmup_steps if self.timescale is None else self.timescale
        up = lerp(self.init_value, self.peak_value, ramp(t, 0.0, self.warmup_steps))
        elapsed = jnp.maximum(t - self.warmup_steps, 0)
        down = self.peak_value / jnp.sqrt(1 + divide(elapsed, scale))
        return jnp.where(t < self.warmup_steps, up, down)


_DECAYS = {
    "linear": lambda done: 1 - done,
    "cosine": half_cosine,
    "1-sqrt": lambda done: 1 - sqrt(done),
}


class WarmupStableDecay(AbstractSchedule):
    r"""WSD, or the trapezoid: a line up to a peak, which is held, then a decay.

    Its length need not be known from the start, unlike a cosine's: training can go on
    from where the decay began. The lengths of the phases add up; the `decay_steps` of
    [`WarmupCosineDecay`][eqxopt.schedules.WarmupCosineDecay] are the whole.

    **Arguments:**

    - `init_value`: the value at step 0.
    - `peak_value`: the value after the warm-up and until the decay.
    - `warmup_steps`: the length of the warm-up, in [0, inf).
    - `stable_steps`: the length of the phase at the peak, in [0, inf).
    - `decay_steps`: the length of the decay, in [0, inf).
    - `end_value`: the value at the end and after. Default 0.
    - `decay_type`: the shape of the decay, of which the part $d$ is done: `"linear"`,
        $1 - d$, the default; `"1-sqrt"`, $1 - \sqrt d$, which the second source finds
        best; or `"cosine"`, $\frac12 + \frac12 \cos(\pi d)$.

    **Raises:** a `ValueError` for another `decay_type`.

    **Source:** Hu et al., [MiniCPM: Unveiling the Potential of Small Language Models
    with Scalable Training Strategies](https://arxiv.org/abs/2404.06395), 2024; Hägele
    et al., [Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations](https://arxiv.org/abs/2405.18392), 2024.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> rate = schedules.WarmupStableDecay(0.0, 1.0, 10, 70, 20)
        >>> print(*(rate(step) for step in (5, 10, 80, 90, 100)))
        0.5 1.0 1.0 0.5 0.0

        ```
    """

    init_value: Number = number("(-inf, inf)")
    peak_value: Number = number("(-inf, inf)")
    warmup_steps: Number = number("[0, inf)")
    stable_steps: Number = number("[0, inf)")
    decay_steps: Number = number("[0, inf)")
    end_value: Number = number("(-inf, inf)", default=0.0)
    decay_type: str = eqx.field(default="linear", static=True)

    def __check_init__(self) -> None:
        if self.decay_type not in _DECAYS:
            raise ValueError(
                f"`WarmupStableDecay(decay_type={self.decay_type!r})`: `decay_type` "
                f"must be one of {', '.join(map(repr, _DECAYS))}"
            )

    def __call__(self, step: Step) -> Scalar:
        t = jnp.asarray(step, dtype=float)
        up = lerp(self.init_value, self.peak_value, ramp(t, 0.0, self.warmup_steps))
        done = ramp(t, self.warmup_steps + self.stable_steps, self.decay_steps)
        down = lerp(self.end_value, self.peak_value, _DECAYS[self.decay_type](done))
        return jnp.where(t < self.warmup_steps, up, down)
