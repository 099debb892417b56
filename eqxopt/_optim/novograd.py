"""NovoGrad."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import compute_dtype, real_dtype, zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import divide, ema, sqrt, squared_norm, unless_overflown
from .._types import FirstMoment, Leaf, Scalar


class NormMoments(NamedTuple):
    """The decaying sum of a parameter's normalized gradients, and the running mean of
    the gradient's squared norm."""

    mu: FirstMoment
    nu: Scalar


class NovoGrad(AbstractLeafwiseOptimizer):
    r"""SGD with momentum over gradients that are divided by their running norm.

    $$
    \begin{aligned}
    v_t &= \begin{cases}
        \|g_1\|^2 & t = 1 \\
        \beta_2 v_{t-1} + (1 - \beta_2) \|g_t\|^2 & t > 1
    \end{cases} \\
    m_t &= \beta_1 m_{t-1} + \left( g_t / (\sqrt{v_t + \bar\varepsilon} + \varepsilon)
        + \lambda \theta_{t-1} \right) \\
    u_t &= -\alpha_t m_t
    \end{aligned}
    $$

    The norms are those of one parameter, which stands for the paper's layer, so $v$ is
    one number for each parameter. It starts from the first gradient, which takes the
    place of a bias correction. Gradients enter $m_t$ undamped, so $\beta_1$ lengthens
    the effective step by up to $1 / (1 - \beta_1)$; some implementations offer a mean
    instead. The weight decay takes part in the momentum. The paper divides the very
    first gradient by its norm without $\varepsilon$.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the momentum, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the squared norm, in [0, 1). Default 0.25.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-6.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.

    **Source:** Ginsburg et al., [Stochastic Gradient Methods with Layer-wise Adaptive
    Moments for Training of Deep Networks](https://arxiv.org/abs/1905.11286), 2019, used
    for [Jasper](https://arxiv.org/abs/1904.03288), 2019.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.25)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)

    def init_leaf(self, param: Leaf) -> NormMoments:
        dtype = real_dtype(compute_dtype(param.dtype))
        return NormMoments(mu=zeros_like(param), nu=jnp.zeros((), dtype))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: NormMoments
    ) -> tuple[Leaf, NormMoments]:
        grad, square = unless_overflown(grad, squared_norm(grad))
        nu = ema(state.nu, square, jnp.where(state.nu == 0, 0, self.b2))
        normalized = divide(grad, sqrt(nu + self.eps_root) + self.eps)
        mu = self.b1 * state.mu + (normalized + self.weight_decay * param)
        return -self.learning_rate * mu, NormMoments(mu, nu)
