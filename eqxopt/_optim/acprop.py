"""ACProp."""

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._math import abs_sq, debias, divide, ema, MeanAndVariance, sqrt, squarable
from .._types import Leaf, Scalar


class AcProp(AbstractLeafwiseOptimizer):
    r"""ACProp: RMSProp with the gradient's variance in place of its square. The divisor
    has not yet seen the current gradient.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    s_t &= \beta_2 s_{t-1} + (1 - \beta_2)\, |g_t - m_t|^2 + \bar\varepsilon \\
    \hat s_t &= s_t / (1 - \beta_2^t), \qquad \hat s_0 = 1 \\
    u_t &= -\alpha_t \left( g_t / (\sqrt{\hat s_{t-1}} + \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    The mean only centres the variance: the step is along the gradient itself, without
    momentum. The paper does not say what the first step is; here, as in optax, it is
    one of gradient descent. So is that of a parameter whose first gradient comes later:
    while $s_{t-1} = 0$, $\hat s_{t-1} = 1$. Steps are long where gradients hardly vary,
    so the rate has to be smaller than Adam's. optax 0.2.8 takes $|g_t - m_{t-1}|^2$ for
    the variance, unlike the paper and its own documentation. The decay is as in
    [`eqxopt.AdamW`][].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the mean, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the variance, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-16. Use more, such
        as 0.01, if entries may have gradients of 0 for a while, as with ReLU: their
        first gradient after that is divided by little more than $\sqrt{\bar\varepsilon
        / (1 - \beta_2)} + \varepsilon$.
    - `eps_root`: $\bar\varepsilon$, added to the variance at every step, in [0, inf).
        Default 1e-16.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Zhuang et al., [Momentum Centering and Asynchronous Update for Adaptive
    Gradient Methods](https://arxiv.org/abs/2110.05454), 2021. The defaults of both
    $\varepsilon$ are optax's.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-16)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=1e-16)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> MeanAndVariance:
        return MeanAndVariance(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanAndVariance
    ) -> tuple[Leaf, MeanAndVariance]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        s = ema(state.s, abs_sq(grad - mu), self.b2) + self.eps_root
        old_s_hat = debias(state.s, self.b2, jnp.maximum(t - 1, 1))
        # Not only for t = 1: a parameter may have its first gradient later.
        old_s_hat = jnp.where(state.s == 0, 1, old_s_hat)
        direction = divide(grad, sqrt(old_s_hat) + self.eps)
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return update, MeanAndVariance(mu, s)
