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
from .._math import abs_sq, debias, ema, sqrt
from .._types import Leaf, RealLeaf, Scalar


class MixedMoments(NamedTuple):
    """A fast and a slow running mean of a parameter's gradient, and that of its
    square."""

    fast: Leaf
    slow: Leaf
    nu: RealLeaf


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

    The slow mean remembers tens of thousands of steps. It is not corrected for its
    start at zero, so it gains its influence gradually.

    In long runs the authors also let $\alpha$ and $\beta_3$ rise over the first $T$
    steps, often the whole run: $\alpha$ from 0, and $\beta_3$ from $\beta_1$ so that
    the half-life of the mean grows linearly. Both take schedules:

    $$
    \beta_3(t) = 0.5^{1 / (1 + h_t)}, \quad
    h_t = (1 - \tau)\, h(\beta_1) + \tau\, h(\beta_3), \quad
    h(\beta) = \frac{\ln 0.5}{\ln \beta} - 1, \quad \tau = \min(t/T, 1)
    $$

    The decay is multiplied by the learning rate, as in PyTorch and optax.

    **Arguments:**

    - `learning_rate`: $\eta \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the fast mean. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment. Default 0.999.
    - `b3`: $\beta_3 \in [0, 1)$, the decay of the slow mean. Default 0.9999. In runs of
        a few thousand steps 0.999 does better.
    - `alpha`: $\alpha \ge 0$, the weight of the slow mean. Default 5; the authors use 4
        to 10.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `eps_root`: $\bar\varepsilon \ge 0$, inside the root. Default 0. Training can be
        differentiated also with 0.
    - `mu_dtype`: the dtype in which $m$ and $n$ are kept. By default that of the
        parameter, and at least float32. bfloat16 is too coarse for a $\beta_3$ near 1.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.

    **Source:** Pagliardini, Ablin and Grangier, [The AdEMAMix Optimizer: Better,
    Faster, Older](https://arxiv.org/abs/2409.03137), 2024. The schedule of $\beta_3$ is
    that of [its code](https://github.com/apple/ml-ademamix).

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> alpha = eqxopt.schedules.Linear(0.0, 5.0, transition_steps=1000)
        >>> opt = eqxopt.AdEMAMix(learning_rate=0.01, alpha=alpha).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.41

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
        return MixedMoments(
            fast=zeros_like(param, self.mu_dtype),
            slow=zeros_like(param, self.mu_dtype),
            nu=real_zeros_like(param),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MixedMoments
    ) -> tuple[Leaf, MixedMoments]:
        fast = ema(state.fast, grad, self.b1)
        slow = ema(state.slow, grad, self.b3)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        nu_hat = debias(nu, self.b2, t)
        mixed = debias(fast, self.b1, t) + self.alpha * slow
        direction = mixed / (sqrt(nu_hat + self.eps_root) + self.eps)
        step = direction + self.weight_decay * param
        return -self.learning_rate * step, MixedMoments(fast, slow, nu)


class TraceAndMoment(NamedTuple):
    """A decaying sum of a parameter's gradients, and the running mean of their
    squares."""

    trace: Leaf
    nu: RealLeaf


class SimplifiedAdEMAMix(AbstractLeafwiseOptimizer):
    r"""Simplified AdEMAMix: AdamW along a long momentum plus the current gradient.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    \hat v_t &= v_t / (1 - \beta_2^t) \\
    u_t &= -\eta_t \left( \frac{m_t + \alpha_t g_t}{\sqrt{\hat v_t + \bar\varepsilon} +
        \varepsilon} + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    AdEMAMix adds a slow mean of the gradients to the fast one of Adam; here the current
    gradient stands for the fast one, and one buffer is saved. The gradient enters $m_t$
    undamped and $m_t$ is not corrected for its start at zero, so $\beta_1$ lengthens
    the effective step by up to $1 / (1 - \beta_1)$, and it grows to that over the first
    steps. From Adam's settings, divide the learning rate by that factor.

    The decay is multiplied by the learning rate, as in PyTorch and optax.

    **Arguments:**

    - `learning_rate`: $\eta \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the momentum. Default 0.99.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment. Default 0.95.
    - `alpha`: $\alpha \ge 0$, the weight of the current gradient beside the momentum.
        Default 0.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `eps_root`: $\bar\varepsilon \ge 0$, inside the root. Default 0. Training can be
        differentiated also with 0.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.

    **Source:** Morwani et al., [Connections between Schedule-Free Optimizers, AdEMAMix,
    and Accelerated SGD Variants](https://arxiv.org/abs/2502.02431), 2025.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.SimplifiedAdEMAMix(learning_rate=0.01).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        12.29

        ```
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
        return TraceAndMoment(trace=zeros_like(param), nu=real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: TraceAndMoment
    ) -> tuple[Leaf, TraceAndMoment]:
        trace = self.b1 * state.trace + grad
        nu = ema(state.nu, abs_sq(grad), self.b2)
        nu_hat = debias(nu, self.b2, t)
        mixed = trace + self.alpha * grad
        direction = mixed / (sqrt(nu_hat + self.eps_root) + self.eps)
        step = direction + self.weight_decay * param
        return -self.learning_rate * step, TraceAndMoment(trace, nu)
