"""AMSGrad."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import DType, dtype_option, Hyperparameter, hyperparameter
from .._math import abs_sq, debias, divide, ema, sqrt, squarable
from .._types import FirstMoment, Leaf, RealLeaf, Scalar, SecondMoment


class MomentsAndPeak(NamedTuple):
    """Running means of the gradient and of its square, and the latter's maximum."""

    mu: FirstMoment
    nu: SecondMoment
    nu_max: RealLeaf


class AMSGrad(AbstractLeafwiseOptimizer):
    r"""Adam whose second moment never shrinks, to remember rare large gradients.

    $$
    \begin{aligned}
    v^{\max}_t &= \max(v^{\max}_{t-1},\, \hat v_t) \\
    u_t &= -\alpha_t\, \hat m_t / (\sqrt{v^{\max}_t + \bar\varepsilon} + \varepsilon)
    \end{aligned}
    $$

    with $\hat m_t$ and $\hat v_t$ of [`eqxopt.Adam`][]. The paper corrects no bias;
    turn both corrections off for its algorithm. PyTorch takes the maximum before it
    corrects the bias; here, as in optax, it comes afterwards.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `bias_correction_mu`: `False` for $\hat m_t = m_t$. Default `True`.
    - `bias_correction_nu`: `False` for $\hat v_t = v_t$. Default `True`.

    **Source:** Reddi, Kale and Kumar, [On the Convergence of Adam and
    Beyond](https://openreview.net/forum?id=ryQu7f-RZ), 2018.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mu_dtype: DType = dtype_option(default=None)
    bias_correction_mu: bool = eqx.field(default=True, static=True)
    bias_correction_nu: bool = eqx.field(default=True, static=True)

    def init_leaf(self, param: Leaf) -> MomentsAndPeak:
        nu, nu_max = real_zeros_like(param), real_zeros_like(param)
        return MomentsAndPeak(zeros_like(param, self.mu_dtype), nu, nu_max)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MomentsAndPeak
    ) -> tuple[Leaf, MomentsAndPeak]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        mu_hat = debias(mu, self.b1, t) if self.bias_correction_mu else mu
        nu_hat = debias(nu, self.b2, t) if self.bias_correction_nu else nu
        nu_max = jnp.maximum(state.nu_max, nu_hat)
        direction = divide(mu_hat, sqrt(nu_max + self.eps_root) + self.eps)
        return -self.learning_rate * direction, MomentsAndPeak(mu, nu, nu_max)
