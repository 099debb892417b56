"""D-Adaptation and Prodigy: learning rates that are estimates of a distance."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.coupled import AbstractCoupledOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter, OptionalHyperparameter
from .._math import (
    abs_sq,
    divide,
    ema,
    inner_product,
    one_minus_power,
    own_copy,
    sqrt,
    squarable,
)
from .._types import AnyLeaf, FirstMoment, Leaf, Scalar, SecondMoment


class Adapted(NamedTuple):
    """Running means of steps, the squared gradient, and steps for the estimate."""

    mu: FirstMoment
    nu: SecondMoment
    step_mean: Leaf


class AdaptedFrom(NamedTuple):
    """Running means of a parameter's gradient and of its square, times the distance;
    the decaying sum of its gradients; and where it was before the first update."""

    mu: FirstMoment
    nu: SecondMoment
    grad_sum: Leaf
    start: Leaf


class Fraction(NamedTuple):
    """What a parameter adds to the numerator, how far downhill, and the denominator."""

    numerator: Scalar
    denominator: Scalar


class Estimate(NamedTuple):
    """The estimates of the distance to the solution after and before the last update,
    and the numerator, a decaying sum of how far downhill all went."""

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

    The inner product and the norm are those of all parameters together. A parameter
    without a gradient has no part in either. `opt.shared.estimate` is $d_t$, the
    learning rate that Adam would be given. [`eqxopt.Prodigy`][] is the authors' later
    method, whose estimate grows faster.

    The bias correction in $\gamma_t$ is that of optax; the authors' package leaves it
    out unless asked. While all gradients are 0 the estimate stays; in optax it is NaN.

    **Arguments:** `b2` and `estim_lr0` are numbers for the whole model.

    - `learning_rate`: $\alpha$, in [0, inf). Default 1. Give it a schedule from 1 to 0
        and no other number. Parameters with different ones enter the sums accordingly.
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `estim_lr0`: $d_0$, in (0, inf), a too small first estimate. Default 1e-6.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.

    **Source:** Defazio and Mishchenko, [Learning-Rate-Free Learning by
    D-Adaptation](https://arxiv.org/abs/2301.07733), 2023.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    estim_lr0: Hyperparameter = hyperparameter("(0, inf)", default=1e-6)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    shared_hyperparameters: ClassVar = ("b2", "estim_lr0")

    def init_leaf(self, param: Leaf) -> Adapted:
        return Adapted(zeros_like(param), real_zeros_like(param), zeros_like(param))

    def init_shared(self, params: Sequence[AnyLeaf]) -> Estimate:
        return _first_estimate(self.estim_lr0)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Adapted, shared: Estimate
    ) -> tuple[Fraction, Adapted]:
        grad = squarable(grad)
        gamma = _gamma(self, t, shared.estimate)
        mu = ema(state.mu, gamma * grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        step_mean = ema(state.step_mean, gamma * grad, sqrt(self.b2))
        last_step = divide(state.step_mean, sqrt(state.nu) + self.eps)
        downhill = inner_product(grad, last_step)
        terms = Fraction(gamma * downhill, jnp.sum(jnp.abs(step_mean)))
        return terms, Adapted(mu, nu, step_mean)

    def update_shared(
        self, t: Scalar, sums: Fraction, shared: Estimate, value: Any
    ) -> Estimate:
        decay = sqrt(self.b2)
        numerator = ema(shared.numerator, sums.numerator, decay)
        estimate = divide(numerator, (1 - decay) * sums.denominator)
        estimate = jnp.maximum(shared.estimate, estimate)
        return Estimate(estimate, shared.estimate, numerator)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Adapted, shared: Estimate
    ) -> Leaf:
        gamma = _gamma(self, t, shared.last_estimate)
        direction = divide(state.mu, sqrt(state.nu) + self.eps)
        return -direction - gamma * self.weight_decay * param


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

    The inner product, the norm, the bias correction and `opt.shared.estimate`, which is
    $d_t$, are as in [`eqxopt.DAdaptAdamW`][].

    **Arguments:** `b2`, `b3`, `estim_lr0` and `estim_lr_coef` are for the whole model.

    - `learning_rate`: $\alpha$, in [0, inf). Default 1. Give it a schedule from 1 to 0
        and no other number. Different ones enter the sums as if rescaled.
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `b3`: $\beta_3$, of the sums, in [0, 1). Default `None`, for $\sqrt{\beta_2}$.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8.
    - `estim_lr0`: $d_0$, in (0, inf), a too small first estimate. Default 1e-6.
    - `estim_lr_coef`: $c$, in [0, inf). Default 1. Tune this, between 0.5 and 2.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `safeguard_warmup`: whether $s_t$ is made with $d_{t-1}$ for $\gamma_t$, so that a
        warm-up does not raise the estimate too high. Default `False`.

    **Source:** Mishchenko and Defazio, [Prodigy: An Expeditiously Adaptive
    Parameter-Free Learner](https://arxiv.org/abs/2306.06101), 2024.
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
        mu, grad_sum = zeros_like(param), zeros_like(param)
        return AdaptedFrom(mu, real_zeros_like(param), grad_sum, own_copy(param))

    def init_shared(self, params: Sequence[AnyLeaf]) -> Estimate:
        return _first_estimate(self.estim_lr0)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: AdaptedFrom, shared: Estimate
    ) -> tuple[Fraction, AdaptedFrom]:
        grad = squarable(grad)
        d, gamma = shared.estimate, _gamma(self, t, shared.estimate)
        scaled = squarable(d * grad)
        mu = ema(state.mu, scaled, self.b1)
        nu = ema(state.nu, abs_sq(scaled), self.b2)
        # Relative to the first estimate, because these sums are quadratic in it.
        weight = d / self.estim_lr0 * (d if self.safeguard_warmup else gamma)
        grad_sum = self.decay() * state.grad_sum + weight * grad
        downhill = inner_product(grad, state.start - param)
        numerator = d / self.estim_lr0 * gamma * downhill
        terms = Fraction(numerator, jnp.sum(jnp.abs(grad_sum)))
        return terms, AdaptedFrom(mu, nu, grad_sum, state.start)

    def update_shared(
        self, t: Scalar, sums: Fraction, shared: Estimate, value: Any
    ) -> Estimate:
        numerator = self.decay() * shared.numerator + sums.numerator
        estimate = self.estim_lr_coef * divide(numerator, sums.denominator)
        estimate = jnp.maximum(shared.estimate, estimate)
        return Estimate(estimate, shared.estimate, numerator)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: AdaptedFrom, shared: Estimate
    ) -> Leaf:
        gamma = _gamma(self, t, shared.last_estimate)
        divisor = sqrt(state.nu) + shared.estimate * self.eps
        direction = divide(state.mu, divisor)
        return -gamma * (direction + self.weight_decay * param)

    def decay(self) -> Scalar:
        return sqrt(self.b2) if self.b3 is None else self.b3


def _first_estimate(d: Scalar) -> Estimate:
    return Estimate(d, d, jnp.zeros_like(d))


def _gamma(rule: DAdaptAdamW | Prodigy, t: Scalar, d: Scalar) -> Scalar:
    r"""$\gamma_t$, of the estimate $d_{t-1}$."""
    correction = sqrt(one_minus_power(rule.b2, t)) / one_minus_power(rule.b1, t)
    return d * rule.learning_rate * correction
