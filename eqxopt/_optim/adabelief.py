"""AdaBelief."""

import equinox as eqx

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import (
    abs_sq,
    debias,
    debiased_mean,
    divide,
    ema,
    MeanAndVariance,
    sqrt,
    squarable,
)
from .._types import Leaf, Scalar


class AdaBelief(AbstractLeafwiseOptimizer):
    r"""Adam with the gradient's variance in place of its square: long steps where the
    gradient is as predicted, short ones where it surprises.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    s_t &= \beta_2 s_{t-1} + (1 - \beta_2)\, |g_t - m_t|^2 + \bar\varepsilon \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat s_t = s_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t \left( \hat m_t / (\sqrt{\hat s_t} + \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    With `nesterov=True`, $\hat m_t$ is that of [`eqxopt.NAdam`][]. Unlike in Adam,
    $\bar\varepsilon$ is added at every step to the variance that is kept. So it is in
    the paper, which has one $\varepsilon = 10^{-8}$ in both places. The decay is
    decoupled, as in [`eqxopt.AdamW`][].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the mean, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the variance, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-16.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 1e-16.
    - `weight_decay`: $\lambda$, in [0, inf). Default `None`, no decay.
    - `weight_decay_mask`: a [selector][selectors] of those that decay. Default: all.
    - `nesterov`: keyword only. Default `False`.

    **Source:** Zhuang et al., [AdaBelief Optimizer: Adapting Stepsizes by the Belief in
    Observed Gradients](https://arxiv.org/abs/2010.07468), 2020. The defaults of both
    $\varepsilon$ are optax's.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-16)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=1e-16)
    weight_decay: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    weight_decay_mask: OptionalMask = mask_of("weight_decay", default=None)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> MeanAndVariance:
        return MeanAndVariance(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanAndVariance
    ) -> tuple[Leaf, MeanAndVariance]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        # Adding eps_root once, to the mean, gives the same. XLA would then compute the
        # sum twice, and copy the old variance for that.
        square = abs_sq(grad - mu) + self.eps_root
        s = ema(state.s + self.eps_root, square, self.b2)
        mu_hat = debiased_mean(mu, grad, self.b1, t, nesterov=self.nesterov)
        s_hat = debias(s, self.b2, t)
        direction = divide(mu_hat, sqrt(s_hat) + self.eps)
        if self.weight_decay is not None:
            direction = direction + self.weight_decay * param
        return -self.learning_rate * direction, MeanAndVariance(mu, s)
