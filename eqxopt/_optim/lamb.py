"""LAMB: Adam with steps in proportion to each parameter's norm."""

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._math import (
    abs_sq,
    debias,
    divide,
    ema,
    Moments,
    norm,
    sqrt,
    squarable,
    trust_ratio,
    zero_moments,
)
from .._types import Leaf, Scalar


class LAMB(AbstractLeafwiseOptimizer):
    r"""LAMB: AdamW whose step for each parameter has the learning rate times the
    parameter's norm as its length.

    $$
    \begin{aligned}
    r_t &= \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon) +
        \lambda \theta_{t-1} \\
    u_t &= -\alpha_t \frac{\|\theta_{t-1}\|}{\|r_t\|}\, r_t
    \end{aligned}
    $$

    with $\hat m_t$ and $\hat v_t$ of [`eqxopt.Adam`][]. The norms are those of one
    parameter, which stands for the paper's layer. Where one of them is 0, the ratio is
    1. This is Algorithm 2 of the paper with its $\phi$, a function of the parameter's
    norm, left out. Implementations that clip it, often to 10, choose another $\phi$.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf), the relative size of a step.
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-6.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** You et al., [Large Batch Optimization for Deep Learning: Training BERT
    in 76 minutes](https://arxiv.org/abs/1904.00962), 2020, with its defaults for the
    decay rates and $\varepsilon$.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b2, t)
        direction = divide(mu_hat, sqrt(nu_hat + self.eps_root) + self.eps)
        direction = direction + self.weight_decay * param
        ratio = trust_ratio(norm(param), norm(direction))
        return -self.learning_rate * ratio * direction, Moments(mu, nu)
