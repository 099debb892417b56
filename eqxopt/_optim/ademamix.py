"""AdEMAMix, and its simplified form."""

from typing import NamedTuple

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import abs_sq, debias, divide, ema, sqrt, squarable
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class MixedMoments(NamedTuple):
    """A fast and a slow running mean of the gradient, and that of its square."""

    fast: FirstMoment
    slow: FirstMoment
    nu: SecondMoment


class AdEMAMix(AbstractLeafwiseOptimizer):
    r"""AdamW along a mixture of a fast and a very slow momentum.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    n_t &= \beta_3 n_{t-1} + (1 - \beta_3)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\eta_t \left( \frac{\hat m_t + \alpha_t n_t}{\sqrt{\hat v_t +
        \bar\varepsilon} + \varepsilon} + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    The slow mean $n$ remembers tens of thousands of steps. It is not corrected for its
    start at zero, so it gains its influence gradually. The decay is as in
    [`eqxopt.AdamW`][].

    In long runs the authors also let $\alpha$ and $\beta_3$ rise over the first $T$
    steps, often the whole run: $\alpha$ from 0, and $\beta_3$ from $\beta_1$ so that
    the half-life of the mean grows linearly. Both take schedules:

    $$
    \beta_3(t) = 0.5^{1 / (1 + h_t)}, \quad
    h_t = (1 - \tau)\, h(\beta_1) + \tau\, h(\beta_3), \quad
    h(\beta) = \frac{\ln 0.5}{\ln \beta} - 1, \quad \tau = \min(t/T, 1)
    $$

    **Arguments:**

    - `learning_rate`: $\eta$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the fast mean, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `b3`: $\beta_3$, the decay of the slow mean, in [0, 1). Default 0.9999. In runs of
        a few thousand steps 0.999 does better.
    - `alpha`: $\alpha$, the weight of the slow mean, in [0, inf). Default 5; the
        authors use 4 to 10.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `mu_dtype`: the dtype in which $m$ and $n$ are kept ([dtypes][dtypes]). bfloat16
        is too coarse for a $\beta_3$ near 1.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Pagliardini, Ablin and Grangier, [The AdEMAMix Optimizer: Better,
    Faster, Older](https://arxiv.org/abs/2409.03137), 2024. The schedule of $\beta_3$ is
    that of [its code](https://github.com/apple/ml-ademamix).

    !!! example

        The authors' schedules, with $T = 10\,000$:

        ```pycon
        >>> import math, eqxopt
        >>> from eqxopt.schedules import Linear
        >>> half_life = lambda beta: math.log(0.5) / math.log(beta) - 1
        >>> h = Linear(half_life(0.9), half_life(0.9999), 10_000)
        >>> b3 = lambda step: 0.5 ** (1 / (1 + h(step)))
        >>> opt = eqxopt.AdEMAMix(1e-3, alpha=Linear(0.0, 5.0, 10_000), b3=b3)
        >>> print(f"{b3(0):.4f} {b3(100):.4f} {b3(10_000):.4f}")
        0.9000 0.9909 0.9999

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    b3: Hyperparameter = hyperparameter("[0, 1)", default=0.9999)
    alpha: Hyperparameter = hyperparameter("[0, inf)", default=5.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mu_dtype: DType = dtype_option(default=None)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> MixedMoments:
        fast, slow = zeros_like(param, self.mu_dtype), zeros_like(param, self.mu_dtype)
        return MixedMoments(fast, slow, real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MixedMoments
    ) -> tuple[Leaf, MixedMoments]:
        grad = squarable(grad)
        fast = ema(state.fast, grad, self.b1)
        slow = ema(state.slow, grad, self.b3)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        fast_hat, nu_hat = debias(fast, self.b1, t), debias(nu, self.b2, t)
        mixture = fast_hat + self.alpha * slow
        direction = divide(mixture, sqrt(nu_hat + self.eps_root) + self.eps)
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return update, MixedMoments(fast, slow, nu)


class TraceAndMoment(NamedTuple):
    """A decaying sum of a parameter's gradients, and the mean of their squares."""

    trace: FirstMoment
    nu: SecondMoment


class SimplifiedAdEMAMix(AbstractLeafwiseOptimizer):
    r"""Simplified AdEMAMix: AdamW along a long momentum plus the current gradient.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + g_t \\
    u_t &= -\eta_t \left( \frac{m_t + \alpha_t g_t}{\sqrt{\hat v_t + \bar\varepsilon} +
        \varepsilon} + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    with $\hat v_t$ of [`eqxopt.AdEMAMix`][], which adds a slow mean of the gradients to
    the fast one of Adam. Here the current gradient stands for the fast one, and one
    buffer is saved. The gradient enters $m_t$ undamped, and $m_t$ is not corrected for
    its start at zero. So $\beta_1$ lengthens the effective step by up to $1 / (1 -
    \beta_1)$, and the step grows to that length over the first steps. From Adam's
    settings, divide the learning rate by that factor. The decay is as in
    [`eqxopt.AdamW`][].

    **Arguments:**

    - `learning_rate`: $\eta$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the momentum, in [0, 1). Default 0.99.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.95.
    - `alpha`: $\alpha$, the weight of the current gradient, in [0, inf). Default 0.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Morwani et al., [Connections between Schedule-Free Optimizers, AdEMAMix,
    and Accelerated SGD Variants](https://arxiv.org/abs/2502.02431), 2025.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.99)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    alpha: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> TraceAndMoment:
        return TraceAndMoment(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: TraceAndMoment
    ) -> tuple[Leaf, TraceAndMoment]:
        grad = squarable(grad)
        trace = self.b1 * state.trace + grad
        nu = ema(state.nu, abs_sq(grad), self.b2)
        nu_hat = debias(nu, self.b2, t)
        mixture = trace + self.alpha * grad
        direction = divide(mixture, sqrt(nu_hat + self.eps_root) + self.eps)
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return update, TraceAndMoment(trace, nu)
