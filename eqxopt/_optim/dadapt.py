"""D-Adaptation and Prodigy: learning rates that are estimates of a distance."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.coupled import AbstractCoupledOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    OptionalHyperparameter,
)
from .._math import (
    abs_sq,
    divide,
    ema,
    inner_product,
    one_minus_power,
    own_copy,
    sqrt,
)
from .._types import AnyLeaf, Leaf, RealLeaf, Scalar


class Adapted(NamedTuple):
    """Running means of a parameter's steps, of its squared gradient, and of its steps
    for the estimate."""

    mu: Leaf
    nu: RealLeaf
    step_mean: Leaf


class AdaptedFrom(NamedTuple):
    """Running means of a parameter's gradient and of its square, times the distance;
    the decaying sum of its gradients; and where it was before the first update."""

    mu: Leaf
    nu: RealLeaf
    grad_sum: Leaf
    start: Leaf


class Terms(NamedTuple):
    """How far downhill a parameter went, weighted, and what bounds it."""

    numerator: Scalar
    denominator: Scalar


class Distance(NamedTuple):
    """The estimates of the distance to the solution after and before the last update,
    and the decaying sum of how far downhill all went."""

    estimate: Scalar
    last_estimate: Scalar
    numerator: Scalar


class DAdaptAdamW(AbstractCoupledOptimizer):
    r"""D-Adaptation: AdamW whose learning rate is an estimate, from below, of the
    distance to the solution.

    $$
    \begin{aligned}
    \gamma_t &= d_{t-1}\, \alpha_t \sqrt{1 - \beta_2^t} \,/\, (1 - \beta_1^t) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \gamma_t\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    s_t &= \sqrt{\beta_2}\, s_{t-1} + (1 - \sqrt{\beta_2})\, \gamma_t\, g_t \\
    r_t &= \sqrt{\beta_2}\, r_{t-1} + (1 - \sqrt{\beta_2})\, \gamma_t
        \langle g_t, s_{t-1} / (\sqrt{v_{t-1}} + \varepsilon) \rangle \\
    d_t &= \max\left( d_{t-1}, \frac{r_t}{(1 - \sqrt{\beta_2}) \|s_t\|_1} \right) \\
    u_t &= -m_t / (\sqrt{v_t} + \varepsilon) - \gamma_t \lambda \theta_{t-1}
    \end{aligned}
    $$

    The inner product and the norm are those of all parameters together.
    `opt.shared.estimate` is $d_t$, the learning rate that Adam would be given.
    [`eqxopt.Prodigy`][] is the authors' later method, whose estimate grows faster.

    The bias correction in $\gamma_t$ is that of optax; the authors' package leaves it
    out unless asked. While all gradients are 0 the estimate stays, where optax makes it
    NaN. A parameter without a gradient has no part in either sum.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$. Default 1. Give it a schedule from 1 to 0 and no
        other number. Parameters with different ones enter the sums accordingly.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment, one number for the
        whole model. Default 0.999.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.
    - `estim_lr0`: $d_0 > 0$, the first estimate, one number for the whole model, which
        should be too small. Default 1e-6.
    - `weight_decay`: $\lambda \ge 0$. Default 0.

    **Source:** Defazio and Mishchenko, [Learning-Rate-Free Learning by
    D-Adaptation](https://arxiv.org/abs/2301.07733), 2023.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.DAdaptAdamW(estim_lr0=0.1).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        2.41

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    estim_lr0: Hyperparameter = hyperparameter("(0, inf)", default=1e-6)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    shared_hyperparameters: ClassVar = ("b2", "estim_lr0")

    def init_leaf(self, param: Leaf) -> Adapted:
        return Adapted(
            mu=zeros_like(param), nu=real_zeros_like(param), step_mean=zeros_like(param)
        )

    def init_shared(self, params: Sequence[AnyLeaf]) -> Distance:
        return unmoved(self.estim_lr0)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Adapted, shared: Distance
    ) -> tuple[Terms, Adapted]:
        size = rate(self, t, shared.estimate)
        step = size * grad
        new = Adapted(
            mu=ema(state.mu, step, self.b1),
            nu=ema(state.nu, abs_sq(grad), self.b2),
            step_mean=ema(state.step_mean, step, sqrt(self.b2)),
        )
        way = state.step_mean / (sqrt(state.nu) + self.eps)
        terms = Terms(
            numerator=size * inner_product(grad, way),
            denominator=jnp.sum(jnp.abs(new.step_mean)),
        )
        return terms, new

    def update_shared(
        self, t: Scalar, sums: Terms, shared: Distance, value: Any
    ) -> Distance:
        decay = sqrt(self.b2)
        numerator = ema(shared.numerator, sums.numerator, decay)
        estimate = divide(numerator, (1 - decay) * sums.denominator)
        return Distance(
            estimate=jnp.maximum(shared.estimate, estimate),
            last_estimate=shared.estimate,
            numerator=numerator,
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Adapted, shared: Distance
    ) -> Leaf:
        decayed = rate(self, t, shared.last_estimate) * self.weight_decay * param
        return -(state.mu / (sqrt(state.nu) + self.eps)) - decayed


class Prodigy(AbstractCoupledOptimizer):
    r"""Prodigy: AdamW whose learning rate is an estimate, from below, of the distance
    to the solution.

    $$
    \begin{aligned}
    \gamma_t &= d_{t-1}\, \alpha_t \sqrt{1 - \beta_2^t} \,/\, (1 - \beta_1^t) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, d_{t-1}\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, d_{t-1}^2\, |g_t|^2 \\
    s_t &= \beta_3 s_{t-1} + d_{t-1} \gamma_t\, g_t / d_0 \\
    r_t &= \beta_3 r_{t-1} + d_{t-1} \gamma_t \,
        \langle g_t, \theta_0 - \theta_{t-1} \rangle / d_0 \\
    d_t &= \max(d_{t-1}, c\, r_t / \|s_t\|_1) \\
    u_t &= -\gamma_t \left( m_t / (\sqrt{v_t} + d_t \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    The inner product and the norm are those of all parameters together.
    `opt.shared.estimate` is $d_t$, the learning rate that Adam would be given.

    The bias correction in $\gamma_t$ is that of optax; the authors' package leaves it
    out unless asked. While all gradients are 0 the estimate stays, where optax makes it
    NaN. A parameter without a gradient has no part in either sum.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$. Default 1. Give it a schedule from 1 to 0 and no
        other number. Parameters with different ones enter the sums accordingly, as if
        rescaled.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment, one number for the
        whole model. Default 0.999.
    - `b3`: $\beta_3 \in [0, 1)$, the decay of the sums, one number for the whole model.
        `None`, the default, takes $\sqrt{\beta_2}$.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.
    - `estim_lr0`: $d_0 > 0$, the first estimate, one number for the whole model, which
        should be too small. Default 1e-6.
    - `estim_lr_coef`: $c \ge 0$, one number for the whole model. Default 1. To tune the
        method, tune this, between 0.5 and 2.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `safeguard_warmup`: whether $s_t$ is made with $d_{t-1}$ in the place of
        $\gamma_t$, so that a rate that warms up does not raise the estimate too high.
        Default `False`.

    **Source:** Mishchenko and Defazio, [Prodigy: An Expeditiously Adaptive
    Parameter-Free Learner](https://arxiv.org/abs/2306.06101), 2024.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Prodigy(estim_lr0=0.1).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        8.59

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    b3: OptionalHyperparameter = hyperparameter("[0, 1)", default=None)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    estim_lr0: Hyperparameter = hyperparameter("(0, inf)", default=1e-6)
    estim_lr_coef: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    safeguard_warmup: bool = eqx.field(default=False, static=True)
    shared_hyperparameters: ClassVar = ("b2", "b3", "estim_lr0", "estim_lr_coef")

    def init_leaf(self, param: Leaf) -> AdaptedFrom:
        return AdaptedFrom(
            mu=zeros_like(param),
            nu=real_zeros_like(param),
            grad_sum=zeros_like(param),
            start=own_copy(param),
        )

    def init_shared(self, params: Sequence[AnyLeaf]) -> Distance:
        return unmoved(self.estim_lr0)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: AdaptedFrom, shared: Distance
    ) -> tuple[Terms, AdaptedFrom]:
        d = shared.estimate
        step = rate(self, t, d)
        # Relative to the first estimate, because these sums are quadratic in it.
        weight = d / self.estim_lr0 * (d if self.safeguard_warmup else step)
        grad_sum = self.decay() * state.grad_sum + weight * grad
        downhill = inner_product(grad, state.start - param)
        terms = Terms(
            numerator=d / self.estim_lr0 * step * downhill,
            denominator=jnp.sum(jnp.abs(grad_sum)),
        )
        return terms, AdaptedFrom(
            mu=ema(state.mu, d * grad, self.b1),
            nu=ema(state.nu, abs_sq(d * grad), self.b2),
            grad_sum=grad_sum,
            start=state.start,
        )

    def update_shared(
        self, t: Scalar, sums: Terms, shared: Distance, value: Any
    ) -> Distance:
        numerator = self.decay() * shared.numerator + sums.numerator
        estimate = self.estim_lr_coef * divide(numerator, sums.denominator)
        return Distance(
            estimate=jnp.maximum(shared.estimate, estimate),
            last_estimate=shared.estimate,
            numerator=numerator,
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: AdaptedFrom, shared: Distance
    ) -> Leaf:
        direction = state.mu / (sqrt(state.nu) + shared.estimate * self.eps)
        direction = direction + self.weight_decay * param
        return -rate(self, t, shared.last_estimate) * direction

    def decay(self) -> Scalar:
        return sqrt(self.b2) if self.b3 is None else self.b3


def unmoved(first: Scalar) -> Distance:
    return Distance(first, last_estimate=first, numerator=jnp.zeros_like(first))


def rate(self: DAdaptAdamW | Prodigy, t: Scalar, distance: Scalar) -> Scalar:
    r"""$\gamma_t$."""
    correction = sqrt(one_minus_power(self.b2, t)) / one_minus_power(self.b1, t)
    return distance * self.learning_rate * correction
