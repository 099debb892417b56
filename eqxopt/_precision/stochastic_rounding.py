"""Parameters in bfloat16 or float16, rounded at random."""

import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._fields import Key, key_field
from .._types import Leaf
from ._rounding import stochastic
from .abstract import AbstractNarrowWeights


class StochasticRounding(AbstractNarrowWeights):
    r"""Rounds the updates of bfloat16 and float16 parameters up or down at random.

    $$
    \theta_t = \begin{cases}
        \lceil x \rceil & \text{with probability }
            (x - \lfloor x \rfloor) / (\lceil x \rceil - \lfloor x \rfloor) \\
        \lfloor x \rfloor & \text{otherwise}
    \end{cases}
    \qquad x = \theta_{t-1} + u_t
    $$

    where $\lfloor x \rfloor$ and $\lceil x \rceil$ are the numbers of the parameter's
    dtype around $x$. The mean of $\theta_t$ is $x$. So a step that rounding to nearest
    would always lose is made as often as its size says, and many of them add up. There
    is no state. The price is noise: each step adds up to half a unit in the last place,
    $2^{-9}$ to $2^{-8}$ of an entry in bfloat16. It fades where a small learning rate
    makes steps rare. [`eqxopt.MasterWeights`][], [`eqxopt.CompensatedWeights`][] and
    [`eqxopt.SplitWeights`][] have none.

    Entries have independent random bits, a hash of `key`, the count of updates, the
    parameter and the place of the entry. Two runs with one key agree. Probabilities
    have a resolution of $2^{-16}$ in bfloat16 and $2^{-13}$ in float16. Infinities and
    NaN stay as they are, and a finite number becomes infinite only where rounding to
    nearest would make it so. Parameters of other dtypes are passed on as they are.
    Inside of `jax.shard_map` the shards of one array share their bits.

    **Arguments:**

    - `optimizer`: any optimizer, which gives $u_t$.
    - `key`: an integer or a random key. Default 0.

    **Raises:** `init` raises a `TypeError` for a parameter in 8 bits or fewer.

    **Source:** Gupta et al., [Deep Learning with Limited Numerical
    Precision](https://arxiv.org/abs/1502.02551), 2015; Zamirai et al., [Revisiting
    BFloat16 Training](https://arxiv.org/abs/2010.06192), 2020.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.ones(1000, jnp.bfloat16)
        >>> opt = eqxopt.StochasticRounding(eqxopt.SGD(0.001)).init(params)
        >>> params, opt = opt.apply(jnp.ones(1000), params)
        >>> print(jnp.unique(params), f"{params.mean(dtype=float):.4f}")
        [0.996094 1] 0.9990

        ```
    """

    optimizer: AbstractOptimizer = inner()
    key: Key = key_field(default=0)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def widen_leaf(self, param: Leaf, state: tuple[()]) -> Leaf:
        return param.astype(jnp.float32)

    def round_leaf(self, wide: Leaf, dtype: jnp.dtype) -> tuple[Leaf, tuple[()]]:
        return stochastic(wide, dtype, self.key), ()
