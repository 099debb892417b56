"""MoMo: models of the loss that are made of its momentum."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.coupled import AbstractCoupledOptimizer
from .._abstract.optimizer import needed_value
from .._dtype import zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import (
    abs_sq,
    clip_factor,
    debias,
    ema,
    inner_product,
    Moments,
    Momentum,
    one_minus_power,
    sqrt,
    squared_norm,
    zero_moments,
)
from .._types import AnyLeaf, Leaf, RealLeaf, Scalar


class Terms(NamedTuple):
    """The inner products of a parameter with its gradient and with the mean of its
    gradients, and the squared norm of this mean."""

    gradient: Scalar
    mean: Scalar
    squared_norm: Scalar


class Model(NamedTuple):
    """The running means of the loss and of the inner product of gradient and
    parameters, the lower bound of the loss, and the step size of the last update."""

    loss: Scalar
    inner_product: Scalar
    lower_bound: Scalar
    step_size: Scalar


class MoMo(AbstractCoupledOptimizer):
    r"""MoMo: gradient descent with momentum whose step would just reach the lower bound
    of the loss, if the loss were as its latest gradients tell.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    \bar f_t &= \beta \bar f_{t-1} + (1 - \beta)\, f(\theta_{t-1}) \\
    \gamma_t &= \beta \gamma_{t-1} +
        (1 - \beta) \langle g_t, \theta_{t-1} \rangle \\
    \tau_t &= \min\left( \alpha_t, \frac{\max(0, (1 + \alpha_t \lambda)
        (\bar f_t - f^\star_t - \gamma_t) + \langle m_t, \theta_{t-1} \rangle)}
        {\|m_t\|^2} \right) \\
    u_t &= -\tau_t m_t - \frac{\alpha_t \lambda}{1 + \alpha_t \lambda}\, \theta_{t-1}
    \end{aligned}
    $$

    with $m_1 = g_1$, $\bar f_1 = f(\theta_0)$ and $\gamma_1 = \langle g_1, \theta_0
    \rangle$. Products and norm are those of all parameters together, and
    $f(\theta_{t-1})$ is the loss, so `apply` needs it: `opt.apply(grads, model,
    value=loss)`. `opt.shared.step_size` is $\tau_t$.

    With `adapt_lower_bound=True` $f^\star_t$ is an estimate: before an update it is
    lowered to half of what would make the step 0, if it is above that, and after it
    becomes $\bar f_t + \langle m_t, \theta_{t-1} \rangle - \gamma_t - \frac12 \tau_t
    \|m_t\|^2$; but it is never below $f^\star$.

    In the paper and its authors' package the decay divides the step as well, $u_t =
    -(\tau_t m_t + \alpha_t \lambda \theta_{t-1}) / (1 + \alpha_t \lambda)$; here, as in
    optax, it does not. optax makes no step where $\|m_t\|^2$ is below 2.2e-16; here, as
    in the paper, that ends only at 0.

    **Arguments:** all are for the whole model, none for each parameter.

    - `learning_rate`: $\alpha \ge 0$, the largest step size. Default 1.
    - `beta`: $\beta \in [0, 1)$. Default 0.9.
    - `lower_bound`: $f^\star$, a lower bound of the loss. Default 0, which suits models
        that can fit their data perfectly.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `adapt_lower_bound`: whether to estimate $f^\star_t$. Default `False`.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    **Source:** Schaipp et al., [MoMo: Momentum Models for Adaptive Learning
    Rates](https://arxiv.org/abs/2305.07583), 2024.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.MoMo(learning_rate=0.1).init(x)
        >>> for _ in range(5):
        ...     loss, grads = jax.value_and_grad(f)(x)
        ...     x, opt = opt.apply(grads, x, value=loss)
        >>> print(f"{f(x):.2f}")
        2.89

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    lower_bound: Hyperparameter = hyperparameter("(-inf, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    adapt_lower_bound: bool = eqx.field(default=False, static=True)
    shared_hyperparameters: ClassVar = (
        "learning_rate",
        "beta",
        "lower_bound",
        "weight_decay",
    )

    def init_leaf(self, param: Leaf) -> Momentum:
        return Momentum(zeros_like(param))

    def init_shared(self, params: Sequence[AnyLeaf]) -> Model:
        return nothing_known(self.lower_bound)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum, shared: Model
    ) -> tuple[Terms, Momentum]:
        mu = ema(state.mu, grad, self.decay(t))
        terms = Terms(
            inner_product(grad, param), inner_product(mu, param), squared_norm(mu)
        )
        return terms, Momentum(mu)

    def update_shared(self, t: Scalar, sums: Terms, shared: Model, value: Any) -> Model:
        loss = needed_value(self, value)
        return improved(self, self.decay(t), jnp.ones_like(t), loss, sums, shared)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum, shared: Model
    ) -> Leaf:
        decay = self.learning_rate * self.weight_decay
        return -shared.step_size * state.mu - decay / (1 + decay) * param

    def decay(self, t: Scalar) -> Scalar:
        # The means start from what comes first.
        return jnp.where(t == 1, 0, self.beta)


class MoMoAdam(AbstractCoupledOptimizer):
    r"""MoMo with Adam's preconditioner.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    D_t &= \sqrt{v_t / (1 - \beta_2^t)} + \varepsilon, \qquad
    \rho_t = 1 - \beta_1^t \\
    \bar f_t &= \beta_1 \bar f_{t-1} + (1 - \beta_1)\, f(\theta_{t-1}) \\
    \gamma_t &= \beta_1 \gamma_{t-1} +
        (1 - \beta_1) \langle g_t, \theta_{t-1} \rangle \\
    \tau_t &= \min\left( \frac{\alpha_t}{\rho_t}, \frac{\max(0,
        (1 + \alpha_t \lambda) (\bar f_t - \rho_t f^\star_t - \gamma_t) +
        \langle m_t, \theta_{t-1} \rangle)}{\langle m_t, m_t / D_t \rangle} \right) \\
    u_t &= -\tau_t m_t / D_t -
        \frac{\alpha_t \lambda}{1 + \alpha_t \lambda}\, \theta_{t-1}
    \end{aligned}
    $$

    Products are those of all parameters together, and $f(\theta_{t-1})$ is the loss, so
    `apply` needs it: `opt.apply(grads, model, value=loss)`. `opt.shared.step_size` is
    $\tau_t$. For `adapt_lower_bound`, and for how the paper decays, see
    [`eqxopt.MoMo`][]; here the bound is lowered and estimated relative to $\rho_t$.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, the largest step size, one number for the whole
        model. Default 0.01.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment, one number for the
        whole model. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment. Default 0.999.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `lower_bound`: $f^\star$, a lower bound of the loss. Default 0, which suits models
        that can fit their data perfectly.
    - `weight_decay`: $\lambda \ge 0$, one number for the whole model. Default 0.
    - `adapt_lower_bound`: whether to estimate $f^\star_t$. Default `False`.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    **Source:** Schaipp et al., [MoMo: Momentum Models for Adaptive Learning
    Rates](https://arxiv.org/abs/2305.07583), 2024.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.MoMoAdam(learning_rate=0.1).init(x)
        >>> for _ in range(5):
        ...     loss, grads = jax.value_and_grad(f)(x)
        ...     x, opt = opt.apply(grads, x, value=loss)
        >>> print(f"{f(x):.2f}")
        8.78

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1e-2)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    lower_bound: Hyperparameter = hyperparameter("(-inf, inf)", default=0.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    adapt_lower_bound: bool = eqx.field(default=False, static=True)
    shared_hyperparameters: ClassVar = (
        "learning_rate",
        "b1",
        "lower_bound",
        "weight_decay",
    )

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param)

    def init_shared(self, params: Sequence[AnyLeaf]) -> Model:
        return nothing_known(self.lower_bound)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments, shared: Model
    ) -> tuple[Terms, Moments]:
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        terms = Terms(
            gradient=inner_product(grad, param),
            mean=inner_product(mu, param),
            squared_norm=jnp.sum(abs_sq(mu) / self.preconditioner(t, nu)),
        )
        return terms, Moments(mu, nu)

    def update_shared(self, t: Scalar, sums: Terms, shared: Model, value: Any) -> Model:
        loss, rho = needed_value(self, value), one_minus_power(self.b1, t)
        return improved(self, self.b1, rho, loss, sums, shared)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments, shared: Model
    ) -> Leaf:
        direction = state.mu / self.preconditioner(t, state.nu)
        decay = self.learning_rate * self.weight_decay
        return -shared.step_size * direction - decay / (1 + decay) * param

    def preconditioner(self, t: Scalar, nu: RealLeaf) -> RealLeaf:
        return sqrt(debias(nu, self.b2, t)) + self.eps


def nothing_known(lower_bound: Scalar) -> Model:
    zero = jnp.zeros_like(lower_bound)
    return Model(loss=zero, inner_product=zero, lower_bound=lower_bound, step_size=zero)


def improved(
    self: MoMo | MoMoAdam,
    decay: Scalar,
    rho: Scalar,
    value: Scalar,
    sums: Terms,
    model: Model,
) -> Model:
    """The model of the loss after another value and gradient, in means of weight
    `rho` altogether, and the step down it."""
    loss = ema(model.loss, value, decay)
    product = ema(model.inner_product, sums.gradient, decay)
    growth = 1 + self.learning_rate * self.weight_decay
    bound = model.lower_bound
    if self.adapt_lower_bound:
        height = growth * (loss - product) + sums.mean
        half = jnp.maximum(height / (2 * rho * growth), self.lower_bound)
        bound = jnp.where(height < growth * rho * bound, half, bound)
    gap = jnp.maximum(growth * (loss - rho * bound - product) + sums.mean, 0)
    # As a factor of the largest step, because the gap over a norm may overflow.
    largest = self.learning_rate / rho
    step_size = largest * clip_factor(largest * sums.squared_norm, gap)
    if self.adapt_lower_bound:
        below = step_size * sums.squared_norm / 2
        estimate = (loss - product + sums.mean - below) / rho
        bound = jnp.maximum(estimate, self.lower_bound)
    return Model(loss, product, bound, step_size)
