"""Descent along signs, of the gradient and of its running mean."""

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import DType, dtype_option, Hyperparameter, hyperparameter
from .._math import ema, Momentum
from .._types import Leaf, Scalar


class SignSGD(AbstractLeafwiseOptimizer):
    r"""Steps of exactly the learning rate in every entry, by the gradient's sign.

    $$
    u_t = -\alpha_t\, \mathrm{sign}(g_t)
    $$

    An entry whose gradient is 0 stays. For a complex entry the sign is $z / |z|$.

    Training can be differentiated, but the sign itself has derivative 0.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.

    **Source:** Bernstein et al., [signSGD: Compressed Optimisation for Non-Convex
    Problems](https://arxiv.org/abs/1802.04434), 2018, Algorithm 1.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.SignSGD(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.82

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return -self.learning_rate * jnp.sign(grad), ()


class Signum(AbstractLeafwiseOptimizer):
    r"""Steps of exactly the learning rate in every entry, by the sign of the mean
    gradient.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    u_t &= -\alpha_t\, \mathrm{sign}(m_t)
    \end{aligned}
    $$

    [`eqxopt.Lion`][] differs in giving the current gradient a weight of its own, and
    with $\beta_1 = \beta_2$ and no decay it is this. For a complex entry the sign is
    $z / |z|$. The paper's decay is in the gradient; for a decoupled one use
    [`eqxopt.DecoupledWeightDecay`][].

    Training can be differentiated, but the sign itself has derivative 0, so $\beta$
    has too.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `beta`: $\beta \in [0, 1)$, the decay of the mean. Default 0.9.
    - `accumulator_dtype`: the dtype in which $m$ is kept. By default that of the
        parameter, and at least float32.

    **Source:** Bernstein et al., [signSGD: Compressed Optimisation for Non-Convex
    Problems](https://arxiv.org/abs/1802.04434), 2018, Algorithm 2; Zhao et al.,
    [Deconstructing What Makes a Good Optimizer for Language
    Models](https://arxiv.org/abs/2407.07972), 2024.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Signum(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.82

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    accumulator_dtype: DType = dtype_option(default=None)

    def init_leaf(self, param: Leaf) -> Momentum:
        return Momentum(zeros_like(param, self.accumulator_dtype))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum
    ) -> tuple[Leaf, Momentum]:
        mu = ema(state.mu, grad, self.beta)
        return -self.learning_rate * jnp.sign(mu), Momentum(mu)
