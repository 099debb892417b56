"""Parameters in bfloat16 or float16 with a copy in float32."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._math import own_copy
from .._types import Leaf
from ._rounding import nearest
from .abstract import AbstractNarrowWeights


class Master(NamedTuple):
    """The float32 copy of a narrow parameter."""

    master: Leaf


class MasterWeights(AbstractNarrowWeights):
    r"""Trains float32 copies of bfloat16 and float16 parameters.

    $$
    \begin{aligned}
    m_t &= m_{t-1} + u_t \\
    \theta_t &= \operatorname{fl}(m_t)
    \end{aligned}
    $$

    where $\operatorname{fl}$ rounds to the nearest number of the parameter's dtype.
    bfloat16 has 8 significant bits, and so $\theta + u = \theta$ if $|u| < 2^{-9}
    |\theta|$: most steps of a learning rate of 1e-4 are lost. float16 has 11 bits. The
    copy $m$ loses nothing that float32 training does not lose: it is what that would
    make of the same gradients. The copies cost 4 bytes an entry.

    The wrapped optimizer is given $m$ for the parameters, and so are weight decay and
    averages inside. `value_fn` and `residual_fn` get the model in its own dtypes.
    Parameters of other dtypes are passed on as they are, without state. If something
    else changes a narrow parameter, $m$ starts from what it is now, entry by entry. So
    put wrappers that change updates inside; [`Accumulate`][eqxopt.Accumulate] and what
    skips steps may be outside.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.

    **Raises:** `init` raises a `TypeError` for a parameter in 8 bits or fewer.

    **Source:** Micikevicius et al., [Mixed Precision
    Training](https://arxiv.org/abs/1710.03740), 2017, Section 3.1.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.ones((), jnp.bfloat16)
        >>> opt = eqxopt.MasterWeights(eqxopt.SGD(0.001)).init(params)
        >>> for _ in range(3):
        ...     params, opt = opt.apply(jnp.ones(()), params)
        ...     print(params, f"{opt.state.master:.3f}")
        1 0.999
        0.996094 0.998
        0.996094 0.997

        ```
    """

    optimizer: AbstractOptimizer = inner()

    def init_leaf(self, param: Leaf) -> Master:
        return Master(own_copy(param))

    def widen_leaf(self, param: Leaf, state: Master) -> Leaf:
        now = param.astype(jnp.float32)
        ours = nearest(state.master, param.dtype) == now
        return jnp.where(ours, state.master, now)

    def round_leaf(self, wide: Leaf, dtype: jnp.dtype) -> tuple[Leaf, Master]:
        return nearest(wide, dtype), Master(wide)
