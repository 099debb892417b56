"""MoMo: momentum with a model of the loss, which gives the step size."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.coupled import AbstractCoupledOptimizer
from .._abstract.step import needed_value
from .._dtype import zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import (
    abs_sq,
    clip_factor,
    debias,
    divide,
    ema,
    inner_product,
    Moments,
    Momentum,
    one_minus_power,
    sqrt,
    squarable,
    squared_norm,
    zero_moments,
)
from .._types import AnyLeaf, Leaf, RealLeaf, Scalar


class Products(NamedTuple):
    """The inner products of the parameters with their gradient and with its running
    mean, and the squared norm of this mean."""

    gradient: Scalar
    mean: Scalar
    squared_norm: Scalar


class LossModel(NamedTuple):
    """The running means of the loss and of the inner product of gradient and
    parameters, the lower bound of the loss, and the step size of the last update."""

    loss: Scalar
    inner_product: Scalar
    lower_bound: Scalar
    step_size: Scalar

    def averaged(self, loss: Scalar, product: Scalar, decay: Scalar) -> "LossModel":
        """With another loss and inner product in the means."""
        return self._replace(
            loss=ema(self.loss, loss, decay),
            inner_product=ema(self.inner_product, product, decay),
        )


def empty_model(lower_bound: Scalar) -> LossModel:
    zero = jnp.zeros_like(lower_bound)
    return LossModel(zero, zero, lower_bound, step_size=zero)


class MoMo(AbstractCoupledOptimizer):
    r"""Momentum whose step would just reach the lower bound of the loss, if the loss
    were what its latest values and gradients predict.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    \bar f_t &= \beta \bar f_{t-1} + (1 - \beta)\, f(\theta_{t-1}) \\
    \gamma_t &= \beta \gamma_{t-1} + (1 - \beta) \langle g_t, \theta_{t-1} \rangle \\
    \tau_t &= \min\left( \alpha_t, \frac{\max(0, (1 + \alpha_t \lambda)
        (\bar f_t - f^\star_t - \gamma_t) + \langle m_t, \theta_{t-1} \rangle)}
        {\|m_t\|^2} \right) \\
    u_t &= -\tau_t m_t - \frac{\alpha_t \lambda}{1 + \alpha_t \lambda}\, \theta_{t-1}
    \end{aligned}
    $$

    with $m_1 = g_1$, $\bar f_1 = f(\theta_0)$ and $\gamma_1 = \langle g_1, \theta_0
    \rangle$. Products and norm are those of all parameters together. `apply` needs the
    loss $f(\theta_{t-1})$: `opt.apply(grads, model, value=loss)`.
    `opt.shared.step_size` is $\tau_t$. With `adapt_lower_bound=True` $f^\star_t$ is an
    estimate, never below $f^\star$. If it is above the bound that makes the step 0, we
    lower it to half of that bound before the update. After the update it becomes $\bar
    f_t + \langle m_t, \theta_{t-1} \rangle - \gamma_t - \frac12 \tau_t \|m_t\|^2$.

    In the paper and its authors' package the decay divides the step as well, $u_t =
    -(\tau_t m_t + \alpha_t \lambda \theta_{t-1}) / (1 + \alpha_t \lambda)$; here, as in
    optax, it does not. optax makes no step where $\|m_t\|^2$ is below 2.2e-16; here, as
    in the paper, only where it is 0.

    **Arguments:** all are for the whole model, none for each parameter.

    - `learning_rate`: $\alpha$, the largest step size, in [0, inf). Default 1.
    - `beta`: $\beta$, the decay of the means, in [0, 1). Default 0.9.
    - `lower_bound`: $f^\star$, a lower bound of the loss. Default 0, for a perfect fit.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `adapt_lower_bound`: whether to estimate $f^\star_t$. Default `False`.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    **Source:** Schaipp et al., [MoMo: Momentum Models for Adaptive Learning
    Rates](https://arxiv.org/abs/2305.07583), 2024.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    lower_bound: Hyperparameter = hyperparameter("(-inf, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    adapt_lower_bound: bool = eqx.field(default=False, static=True)
    shared_hyperparameters = ("learning_rate", "beta", "lower_bound", "weight_decay")

    def init_leaf(self, param: Leaf) -> Momentum:
        return Momentum(zeros_like(param))

    def init_shared(self, params: Sequence[AnyLeaf]) -> LossModel:
        return empty_model(self.lower_bound)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum, shared: LossModel
    ) -> tuple[Products, Momentum]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.decay(t))
        products = Products(
            gradient=inner_product(grad, param),
            mean=inner_product(mu, param),
            squared_norm=squared_norm(mu),
        )
        return products, Momentum(mu)

    def update_shared(
        self, t: Scalar, sums: Products, shared: LossModel, value: Any
    ) -> LossModel:
        loss = needed_value(self, value)
        model = shared.averaged(loss, sums.gradient, self.decay(t))
        return descended(self, model, sums, jnp.ones_like(t))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum, shared: LossModel
    ) -> Leaf:
        decay = self.learning_rate * self.weight_decay
        return -shared.step_size * state.mu - decay / (1 + decay) * param

    def decay(self, t: Scalar) -> Scalar:
        """0 in the first update, so that the means start from its terms."""
        return jnp.where(t == 1, 0, self.beta)


class MoMoAdam(AbstractCoupledOptimizer):
    r"""MoMo with the preconditioner of Adam.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad \rho_t = 1 - \beta_1^t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2, \qquad
    D_t = \sqrt{v_t / (1 - \beta_2^t)} + \varepsilon \\
    \bar f_t &= \beta_1 \bar f_{t-1} + (1 - \beta_1)\, f(\theta_{t-1}) \\
    \gamma_t &= \beta_1\gamma_{t-1} + (1 - \beta_1) \langle g_t, \theta_{t-1} \rangle \\
    \tau_t &= \min\left( \frac{\alpha_t}{\rho_t}, \frac{\max(0,
        (1 + \alpha_t \lambda) (\bar f_t - \rho_t f^\star_t - \gamma_t) +
        \langle m_t, \theta_{t-1} \rangle)}{\langle m_t, m_t / D_t \rangle} \right) \\
    u_t &= -\tau_t m_t / D_t -
        \frac{\alpha_t \lambda}{1 + \alpha_t \lambda}\, \theta_{t-1}
    \end{aligned}
    $$

    Products, the loss that `apply` needs, `opt.shared.step_size`, `adapt_lower_bound`
    and the paper's decay are as in [`eqxopt.MoMo`][]; but the bound is lowered and
    estimated relative to $\rho_t$.

    **Arguments:** all but `b2` and `eps` are for the whole model.

    - `learning_rate`: $\alpha$, the largest step size, in [0, inf). Default 0.01.
    - `b1`: $\beta_1$, the decay of $m$, $\bar f$ and $\gamma$, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `lower_bound`: $f^\star$, a lower bound of the loss. Default 0, for a perfect fit.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `adapt_lower_bound`: whether to estimate $f^\star_t$. Default `False`.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    **Source:** that of [`eqxopt.MoMo`][].
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1e-2)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    lower_bound: Hyperparameter = hyperparameter("(-inf, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    adapt_lower_bound: bool = eqx.field(default=False, static=True)
    shared_hyperparameters = ("learning_rate", "b1", "lower_bound", "weight_decay")

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param)

    def init_shared(self, params: Sequence[AnyLeaf]) -> LossModel:
        return empty_model(self.lower_bound)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments, shared: LossModel
    ) -> tuple[Products, Moments]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        products = Products(
            gradient=inner_product(grad, param),
            mean=inner_product(mu, param),
            squared_norm=jnp.sum(divide(abs_sq(mu), self.preconditioner(t, nu))),
        )
        return products, Moments(mu, nu)

    def update_shared(
        self, t: Scalar, sums: Products, shared: LossModel, value: Any
    ) -> LossModel:
        loss = needed_value(self, value)
        model = shared.averaged(loss, sums.gradient, self.b1)
        return descended(self, model, sums, one_minus_power(self.b1, t))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments, shared: LossModel
    ) -> Leaf:
        direction = divide(state.mu, self.preconditioner(t, state.nu))
        decay = self.learning_rate * self.weight_decay
        return -shared.step_size * direction - decay / (1 + decay) * param

    def preconditioner(self, t: Scalar, nu: RealLeaf) -> RealLeaf:
        return sqrt(debias(nu, self.b2, t)) + self.eps


def descended(
    rule: MoMo | MoMoAdam, model: LossModel, sums: Products, rho: Scalar
) -> LossModel:
    """The model with the step down it. `rho` is the total weight of its means."""
    loss, product, bound, _ = model
    growth = 1 + rule.learning_rate * rule.weight_decay
    if rule.adapt_lower_bound:
        height = growth * (loss - product) + sums.mean
        half = jnp.maximum(height / (2 * rho * growth), rule.lower_bound)
        bound = jnp.where(height < growth * rho * bound, half, bound)
    gap = jnp.maximum(growth * (loss - rho * bound - product) + sums.mean, 0)
    # As a factor of the largest step, because the gap over a norm may overflow.
    largest = rule.learning_rate / rho
    step_size = largest * clip_factor(largest * sums.squared_norm, gap)
    if rule.adapt_lower_bound:
        decrease = step_size * sums.squared_norm / 2
        estimate = (loss - product + sums.mean - decrease) / rho
        bound = jnp.maximum(estimate, rule.lower_bound)
    return LossModel(loss, product, bound, step_size)
