"""Adamax, with and without decoupled weight decay."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._math import debias, divide, ema
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class MeanAndPeak(NamedTuple):
    """The running mean of a parameter's gradient, and its decaying largest size."""

    mu: FirstMoment
    nu: SecondMoment


class Adamax(AbstractLeafwiseOptimizer):
    r"""Adam with the largest recent gradient in place of the root mean square.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \max(\beta_2 v_{t-1},\, |g_t| + \varepsilon) \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad u_t = -\alpha_t\, \hat m_t / v_t
    \end{aligned}
    $$

    The maximum has no bias to correct. The paper has no $\varepsilon$ and so divides 0
    by 0 where no gradient has come yet; PyTorch and optax add it as here.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the maximum, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8.

    **Source:** Kingma and Ba, [Adam: A Method for Stochastic
    Optimization](https://arxiv.org/abs/1412.6980), 2014, Algorithm 2.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)

    def init_leaf(self, param: Leaf) -> MeanAndPeak:
        return MeanAndPeak(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanAndPeak
    ) -> tuple[Leaf, MeanAndPeak]:
        direction, state = _direction(self, t, grad, state)
        return -self.learning_rate * direction, state


class AdamaxW(AbstractLeafwiseOptimizer):
    r"""Adamax with decoupled weight decay.

    $$
    u_t = -\alpha_t \left( \hat m_t / v_t + \lambda \theta_{t-1} \right)
    $$

    with $\hat m_t$ and $v_t$ of [`eqxopt.Adamax`][]. The decay is multiplied by the
    learning rate, as in [`eqxopt.AdamW`][].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the maximum, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 1e-4.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** those of [`eqxopt.Adamax`][] and [`eqxopt.AdamW`][].
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> MeanAndPeak:
        return MeanAndPeak(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanAndPeak
    ) -> tuple[Leaf, MeanAndPeak]:
        direction, state = _direction(self, t, grad, state)
        return -self.learning_rate * (direction + self.weight_decay * param), state


def _direction(
    rule: Adamax | AdamaxW, t: Scalar, grad: Leaf, state: MeanAndPeak
) -> tuple[Leaf, MeanAndPeak]:
    r"""$\hat m_t / v_t$."""
    mu = ema(state.mu, grad, rule.b1)
    nu = jnp.maximum(rule.b2 * state.nu, jnp.abs(grad) + rule.eps)
    return divide(debias(mu, rule.b1, t), nu), MeanAndPeak(mu, nu)
