"""Parameters in bfloat16 or float16 with 8 more bits."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int8

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._types import Leaf
from ._rounding import last_place, nearest, times_power
from .abstract import AbstractNarrowWeights


# 255 codes of equal width, from -127.5 to 127.5. With 127 the largest code would be
# half a unit in the last place, and the parameter could be rounded to the other side
# without any update.
_LARGEST = 127.5


class Code(NamedTuple):
    """The rounding error of a narrow parameter, in 255ths of its last place."""

    code: Int8[Array, "*shape"]


class SplitWeights(AbstractNarrowWeights):
    r"""Keeps 8 more bits of bfloat16 and float16 parameters.

    $$
    \begin{aligned}
    x_t &= \theta_{t-1} + h(\theta_{t-1})\, \rho_{t-1} / 127.5 + u_t \\
    \theta_t &= \operatorname{fl}(x_t), \qquad
    \rho_t = \operatorname{round}\bigl(127.5\, (x_t - \theta_t) / h(\theta_t)\bigr)
    \end{aligned}
    $$

    where $\operatorname{fl}$ rounds to the nearest number of the parameter's dtype, and
    $h(\theta)$ is half a unit in its last place, the largest rounding error: $2^{e-8}$
    in bfloat16 and $2^{e-11}$ in float16 for $2^e \le |\theta| < 2^{e+1}$. The codes
    $\rho$ are integers from -127 to 127. What is kept is within $h / 255$ of $x$:
    $1.54 \cdot 10^{-5}\, |x|$ in bfloat16, as if it had 16 significant bits, and
    $1.92 \cdot 10^{-6}\, |x|$ in float16. The codes cost 1 byte an entry, a quarter of
    what [`eqxopt.MasterWeights`][] costs.

    The wrapped optimizer is given $\theta + h \rho / 127.5$ for the parameters.
    `value_fn` and `residual_fn` get the model in its own dtypes. Parameters of other
    dtypes are passed on as they are, without state. If something else changes a narrow
    parameter, its code is stale: it is wrong by half a unit in the last place of the
    new parameter at most. So put wrappers that change updates inside;
    [`Accumulate`][eqxopt.Accumulate] and what skips steps may be outside.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.

    **Raises:** `init` raises a `TypeError` for a parameter in 8 bits or fewer.

    **Source:** Gonzalez Ortiz et al., [FlashOptim: Optimizers for Memory Efficient
    Training](https://arxiv.org/abs/2602.23349), 2026, which divides by 127: the largest
    code is then as large as rounding errors get, and the others are a little coarser.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.ones((), jnp.bfloat16)
        >>> opt = eqxopt.SplitWeights(eqxopt.SGD(0.001)).init(params)
        >>> for _ in range(3):
        ...     params, opt = opt.apply(jnp.ones(()), params)
        ...     print(params, opt.state.code)
        1 -33
        0.996094 124
        0.996094 59

        ```
    """

    optimizer: AbstractOptimizer = inner()

    def init_leaf(self, param: Leaf) -> Code:
        return Code(jnp.zeros_like(param, jnp.int8))

    def widen_leaf(self, param: Leaf, state: Code) -> Leaf:
        now = param.astype(jnp.float32)
        units = state.code.astype(jnp.float32) / _LARGEST
        return now + times_power(units, last_place(now, param.dtype))

    def round_leaf(self, wide: Leaf, dtype: jnp.dtype) -> tuple[Leaf, Code]:
        new = nearest(wide, dtype)
        units = times_power(wide - new, -last_place(new, dtype))
        code = jnp.clip(jnp.round(_LARGEST * units), -127, 127)
        code = jnp.where(jnp.isfinite(units), code, 0)
        return new, Code(code.astype(jnp.int8))
