"""MADGRAD."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import abs_sq, cbrt, divide, own_copy, squarable
from .._types import Leaf, RealLeaf, Scalar


class DualAverage(NamedTuple):
    """Weighted sums of gradients and of their squares, and where a parameter began."""

    sum: Leaf
    sum_of_squares: RealLeaf
    start: Leaf


class MADGRAD(AbstractLeafwiseOptimizer):
    r"""Adagrad by dual averaging: every step is seen from where training started, with
    growing weights, a cube root and momentum.

    $$
    \begin{aligned}
    \tilde g_t &= g_t + \lambda \theta_{t-1} \\
    \gamma_t &= (\alpha_t + \varepsilon) \sqrt t \\
    s_t &= s_{t-1} + \gamma_t \tilde g_t \\
    \nu_t &= \nu_{t-1} + \gamma_t |\tilde g_t|^2 \\
    z_t &= \theta_0 - s_t / (\sqrt[3]{\nu_t} + \varepsilon) \\
    \theta_t &= \mu\, \theta_{t-1} + (1 - \mu)\, z_t
    \end{aligned}
    $$

    As in its authors' code and in optax, $\varepsilon$ is added to the learning rate
    too, which the paper does not; and the learning rate is one of about SGD's, not of
    Adam's. With a learning rate of 0 a parameter still moves on towards $z_t$. The
    decay is in the gradient, and a much smaller one than elsewhere is right, often 0.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `momentum`: $\mu$, in [0, 1). Default 0.9.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-6.

    **Source:** Defazio and Jelassi, [Adaptivity without Compromise: A Momentumized,
    Adaptive, Dual Averaged Gradient Method for Stochastic
    Optimization](https://arxiv.org/abs/2101.11075), 2021, Algorithm 1.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    momentum: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)

    def init_leaf(self, param: Leaf) -> DualAverage:
        return DualAverage(zeros_like(param), real_zeros_like(param), own_copy(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: DualAverage
    ) -> tuple[Leaf, DualAverage]:
        grad = squarable(grad + self.weight_decay * param)
        gamma = (self.learning_rate + self.eps) * jnp.sqrt(t)
        total = state.sum + gamma * grad
        nu = state.sum_of_squares + gamma * abs_sq(grad)
        z = state.start - divide(total, cbrt(nu) + self.eps)
        update = (1 - self.momentum) * (z - param)
        return update, DualAverage(total, nu, state.start)
