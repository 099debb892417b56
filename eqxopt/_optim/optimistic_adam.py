"""Optimistic Adam."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import DType, dtype_option, Hyperparameter, hyperparameter
from .._math import abs_sq, debias, debiased_mean, divide, ema, sqrt, squarable
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class MomentsAndDirection(NamedTuple):
    """Running means of the gradient and of its square; Adam's last direction."""

    mu: FirstMoment
    nu: SecondMoment
    direction: FirstMoment


class OptimisticAdam(AbstractLeafwiseOptimizer):
    r"""Adam that counts on its direction to change as it just did.

    $$
    \begin{aligned}
    r_t &= \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon), \qquad
    r_0 = r_1 \\
    u_t &= -\eta_t \left( (a + b)\, r_t - b\, r_{t-1} \right)
    \end{aligned}
    $$

    with $\hat m_t$ and $\hat v_t$ of [`eqxopt.NAdam`][], or, with `nesterov=False`, of
    [`eqxopt.Adam`][]. This is [`eqxopt.OptimisticGradientDescent`][] along Adam's
    direction. In games of two players, such as adversarial training, it damps the
    circling of plain Adam if `b1` is low: it looks one step ahead, and the momentum of
    the default remembers ten. The arguments are those of `optax.optimistic_adam_v2`.
    The paper has $a = b = 1$ and no Nesterov momentum.

    **Arguments:** all but the first are keyword only.

    - `learning_rate`: $\eta$, in [0, inf).
    - `alpha`: $a$, the weight of the direction. Default 1.
    - `beta`: $b$, the weight of its change. Default 1.
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `nesterov`: whether to look one step ahead. Default `True`.

    **Source:** Daskalakis et al., [Training GANs with
    Optimism](https://arxiv.org/abs/1711.00141), 2018, Algorithm 1.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    alpha: Hyperparameter = hyperparameter("(-inf, inf)", default=1.0, kw_only=True)
    beta: Hyperparameter = hyperparameter("(-inf, inf)", default=1.0, kw_only=True)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9, kw_only=True)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999, kw_only=True)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8, kw_only=True)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0, kw_only=True)
    mu_dtype: DType = dtype_option(default=None, kw_only=True)
    nesterov: bool = eqx.field(default=True, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> MomentsAndDirection:
        return MomentsAndDirection(
            mu=zeros_like(param, self.mu_dtype),
            nu=real_zeros_like(param),
            direction=zeros_like(param),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MomentsAndDirection
    ) -> tuple[Leaf, MomentsAndDirection]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        mu_hat = debiased_mean(mu, grad, self.b1, t, nesterov=self.nesterov)
        nu_hat = debias(nu, self.b2, t)
        direction = divide(mu_hat, sqrt(nu_hat + self.eps_root) + self.eps)
        previous = jnp.where(t == 1, direction, state.direction)
        step = self.alpha * direction + self.beta * (direction - previous)
        return -self.learning_rate * step, MomentsAndDirection(mu, nu, direction)
