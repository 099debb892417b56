"""StableAdamW."""

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import (
    abs_sq,
    debias,
    divide,
    ema,
    Moments,
    rms,
    sqrt,
    squarable,
    zero_moments,
)
from .._types import Leaf, Scalar


class StableAdamW(AbstractLeafwiseOptimizer):
    r"""AdamW that slows down where the gradient is larger than its second moment
    foresees, which prevents spikes of the loss.

    $$
    \begin{aligned}
    \rho_t &= \sqrt{\mathrm{mean}\left( |g_t|^2 / \max(\hat v_t, \varepsilon^2)
        \right)} \\
    \eta_t &= \alpha_t / \max(1,\, \rho_t / d) \\
    u_t &= -\eta_t \left( \hat m_t / (\sqrt{\hat v_t} + \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    with $\hat m_t$ and $\hat v_t$ of [`eqxopt.Adam`][]. The mean is over the entries of
    one parameter. This clipping comes from [`eqxopt.Adafactor`][], and takes the place
    of clipping the gradient's norm. The paper corrects the bias in the decay rates,
    $\hat\beta_t = \beta\, (1 - \beta^{t-1}) / (1 - \beta^t)$, which gives the same
    $\hat m_t$ and $\hat v_t$.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.99.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.2.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `clipping_threshold`: $d$, in (0, inf). Default 1.

    **Source:** Wortsman et al., [Stable and low-precision training for large-scale
    vision-language models](https://arxiv.org/abs/2304.13013), 2023, Algorithm 2. The
    defaults are those of its code, for training CLIP.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.99)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    mu_dtype: DType = dtype_option(default=None)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.2)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    clipping_threshold: Hyperparameter = hyperparameter("(0, inf)", default=1.0)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param, self.mu_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b2, t)
        root = sqrt(nu_hat)
        rho = rms(divide(grad, jnp.maximum(root, self.eps)))
        rate = self.learning_rate / jnp.maximum(1, rho / self.clipping_threshold)
        step = divide(mu_hat, root + self.eps) + self.weight_decay * param
        return -rate * step, Moments(mu, nu)
