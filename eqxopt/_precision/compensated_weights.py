"""Parameters in bfloat16 or float16 with their rounding errors."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._types import Leaf
from ._rounding import last_place, nearest, times_power
from .abstract import AbstractNarrowWeights


class Error(NamedTuple):
    """What rounding took from a narrow parameter, in its dtype."""

    error: Leaf


class CompensatedWeights(AbstractNarrowWeights):
    r"""Keeps the rounding errors of bfloat16 and float16 parameters: Kahan summation.

    $$
    \begin{aligned}
    x_t &= \theta_{t-1} + c_{t-1} + u_t \\
    \theta_t &= \operatorname{fl}(x_t), \qquad c_t = \operatorname{fl}(x_t - \theta_t)
    \end{aligned}
    $$

    where $\operatorname{fl}$ rounds to the nearest number of the parameter's dtype.
    Together $\theta + c$ are within $2^{-16} |x|$ of $x$ in bfloat16. In float16 they
    are within $2^{-22} |x|$, or $2^{-24}$ where that is more: near 0 float16 has no
    smaller numbers. The errors cost 2 bytes an entry, half of what
    [`eqxopt.MasterWeights`][] costs.

    The wrapped optimizer is given $\theta + c$ for the parameters. `value_fn` and
    `residual_fn` get the model in its own dtypes. Parameters of other dtypes are passed
    on as they are, without state. If something else changes a narrow parameter, its
    error is stale: it is dropped where it is more than half a unit in the last place of
    the parameter, which no rounding error is, and is off by no more than that
    elsewhere. So put wrappers that change updates inside;
    [`Accumulate`][eqxopt.Accumulate] and what skips steps may be outside.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.

    **Raises:** `init` raises a `TypeError` for a parameter in 8 bits or fewer.

    **Source:** Zamirai et al., [Revisiting BFloat16
    Training](https://arxiv.org/abs/2010.06192), 2020. There steps are computed in
    bfloat16 too; here they are computed in float32.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.ones((), jnp.bfloat16)
        >>> opt = eqxopt.CompensatedWeights(eqxopt.SGD(0.001)).init(params)
        >>> for _ in range(3):
        ...     params, opt = opt.apply(jnp.ones(()), params)
        ...     print(params, f"{opt.state.error:.4f}")
        1 -0.0010
        0.996094 0.0019
        0.996094 0.0009

        ```
    """

    optimizer: AbstractOptimizer = inner()

    def init_leaf(self, param: Leaf) -> Error:
        return Error(jnp.zeros_like(param))

    def widen_leaf(self, param: Leaf, state: Error) -> Leaf:
        now, error = param.astype(jnp.float32), state.error.astype(jnp.float32)
        units = times_power(error, -last_place(now, param.dtype))
        return now + jnp.where(jnp.abs(units) <= 1, error, 0)

    def round_leaf(self, wide: Leaf, dtype: jnp.dtype) -> tuple[Leaf, Error]:
        new = nearest(wide, dtype)
        largest = times_power(jnp.ones_like(new), last_place(new, dtype))
        # Less than half a unit in the last place: with exactly that, the parameter
        # could be rounded to the other side without any update.
        gap = jnp.maximum(
            largest * float(jnp.finfo(dtype).eps) / 2,
            float(jnp.finfo(dtype).smallest_subnormal),
        )
        largest = jnp.maximum(largest - gap, 0)
        error = nearest(jnp.clip(wide - new, -largest, largest), dtype)
        error = jnp.where(jnp.isfinite(error), error, 0)
        return new, Error(error.astype(dtype))
