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
    many times larger. For a complex entry the sign is $z / |z|$.

    Training can be differentiated, but the sign itself has derivative 0, so $\beta_1$
    and $\beta_2$ have too.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the weight of the momentum in the step. Default 0.9.
    - `b2`: $\beta_2 \in (0, 1)$, the decay of the momentum. Default 0.99.
    - `mu_dtype`: the dtype in which $m$ is kept. By default that of the parameter,
        and at least float32.
    - `weight_decay`: $\lambda \ge 0$. Default 1e-3.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.

    **Source:** Chen et al., [Symbolic Discovery of Optimization
    Algorithms](https://arxiv.org/abs/2302.06675), 2023, Algorithm 2. The default of
    the weight decay is optax's.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Lion(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.82

        ```
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
        # By the new momentum, this is b2 times what the equation says. The old one is
        # then overwritten in place, where else it would be copied first.
        direction = jnp.sign(self.b1 * mu + (self.b2 - self.b1) * grad)
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return update, Momentum(mu)
