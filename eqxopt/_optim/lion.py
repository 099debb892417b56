"""Lion."""

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import ema, Momentum
from .._types import Leaf, Scalar


class Lion(AbstractLeafwiseOptimizer):
    r"""Steps of exactly the learning rate in every entry, by the sign of the momentum.

    $$
    \begin{aligned}
    u_t &= -\alpha_t \left( \mathrm{sign}(\beta_1 m_{t-1} + (1 - \beta_1)\, g_t) +
        \lambda \theta_{t-1} \right) \\
    m_t &= \beta_2 m_{t-1} + (1 - \beta_2)\, g_t
    \end{aligned}
    $$

    Only one moment is kept. As every entry moves by the full $\alpha_t$, the authors
    advise a learning rate 3 to 10 times smaller than for AdamW, and a weight decay as
    many times larger. For a complex entry the sign is $z / |z|$. Training can be
    differentiated, but the derivative of the sign is 0, and so are those by $\beta_1$
    and $\beta_2$.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the weight of the momentum in the step, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the momentum, in (0, 1). Default 0.99.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `weight_decay`: $\lambda$, in [0, inf). Default 1e-3.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Chen et al., [Symbolic Discovery of Optimization
    Algorithms](https://arxiv.org/abs/2302.06675), 2023, Algorithm 2. The default of
    the weight decay is optax's.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("(0, 1)", default=0.99)
    mu_dtype: DType = dtype_option(default=None)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-3)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> Momentum:
        return Momentum(zeros_like(param, self.mu_dtype))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum
    ) -> tuple[Leaf, Momentum]:
        mu = ema(state.mu, grad, self.b2)
        # Written with the new momentum, this is b2 times the argument of the sign. With
        # the old one, XLA could not overwrite it in place and would copy it first.
        direction = jnp.sign(self.b1 * mu + (self.b2 - self.b1) * grad)
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return update, Momentum(mu)
