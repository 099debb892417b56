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

    An entry whose gradient is 0 stays. The sign of a complex entry is $z / |z|$.
    Training can be differentiated, but the sign itself has derivative 0.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).

    **Source:** Bernstein et al., [signSGD: Compressed Optimisation for Non-Convex
    Problems](https://arxiv.org/abs/1802.04434), 2018, Algorithm 1.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return -self.learning_rate * jnp.sign(grad), ()


class Signum(AbstractLeafwiseOptimizer):
    r"""Steps of exactly the learning rate in every entry, by the mean gradient's sign.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    u_t &= -\alpha_t\, \mathrm{sign}(m_t)
    \end{aligned}
    $$

    The sign of a complex entry is $z / |z|$. [`eqxopt.Lion`][] gives the current
    gradient a weight of its own; with $\beta_1 = \beta_2$ and no decay it is this. The
    paper's decay is in the gradient; for a decoupled one use
    [`eqxopt.DecoupledWeightDecay`][]. Training can be differentiated, but the
    derivative of the sign, and so that by $\beta$, is 0.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `beta`: $\beta$, the decay of the mean, in [0, 1). Default 0.9.
    - `accumulator_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).

    **Source:** Bernstein et al., [signSGD: Compressed Optimisation for Non-Convex
    Problems](https://arxiv.org/abs/1802.04434), 2018, Algorithm 2; Zhao et al.,
    [Deconstructing What Makes a Good Optimizer for Language
    Models](https://arxiv.org/abs/2407.07972), 2024.
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
