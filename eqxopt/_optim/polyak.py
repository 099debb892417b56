"""Gradient descent with Polyak's step size."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

from .._dtype import widen
from .._hyperparameter import Hyperparameter, nonnegative, real
from .._math import sum_of_squares
from .._optimizer import AbstractOptimizer, count_of, needed_value
from .._rules import gradients, rules, started
from .._tree import Parameters, replace_fields
from .._types import Self


M = TypeVar("M")


class PolyakSGD(AbstractOptimizer):
    r"""Gradient descent whose step would just reach the minimum of a straight line.

    $$
    u_t = -s \min\left( \frac{f(\theta_{t-1}) - f^\star}{\|g_t\|^2 + \varepsilon},
        \gamma \right) g_t
    $$

    The norm is that of all gradients together, and $f(\theta_{t-1})$ is the loss, so
    `apply` needs it: `opt.apply(grads, model, value=loss)`. Where $\|g_t\|^2 +
    \varepsilon$ is below the precision of the dtype, the update is 0.

    **Arguments:**

    - `max_learning_rate`: $\gamma \ge 0$, the largest step size. Default 1.
    - `scaling`: $s \ge 0$. Default 1.
    - `f_min`: $f^\star$, a lower bound of the loss. Default 0, which suits models that
        can fit their data perfectly.
    - `eps`: $\varepsilon \ge 0$. Default 0.
    - `variant`: `"sps"`, the default, or `"sps+"`, which takes a loss below
        $f^\star$ for $f^\star$ and so never goes uphill.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    **Source:** Loizou et al., [Stochastic Polyak Step-size for
    SGD](https://arxiv.org/abs/2002.10542), 2021; Garrigos et al., [Function Value
    Learning](https://arxiv.org/abs/2307.14528), 2023, for `"sps+"`.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.PolyakSGD().init(x)
        >>> for _ in range(5):
        ...     loss, grads = jax.value_and_grad(f)(x)
        ...     x, opt = opt.apply(grads, x, value=loss)
        >>> print(f"{f(x):.4f}")
        0.0137

        ```
    """

    max_learning_rate: Hyperparameter = eqx.field(converter=nonnegative, default=1.0)
    scaling: Hyperparameter = eqx.field(converter=nonnegative, default=1.0)
    f_min: Hyperparameter = eqx.field(converter=real, default=0.0)
    eps: Hyperparameter = eqx.field(converter=nonnegative, default=0.0)
    variant: Literal["sps", "sps+"] = eqx.field(default="sps", static=True)

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        nothing = parameters.tree([None] * len(parameters))
        return replace_fields(started(self, parameters), state=nothing)

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        del value_fn
        loss = needed_value(self, value)
        parameters = Parameters(params)
        grad_leaves = gradients(self, grads, parameters)
        squared_norm = sum_of_squares(g for g in grad_leaves if g is not None)
        updates = [
            None if grad is None else rule.scaled(grad, param, loss, squared_norm)
            for rule, grad, param in zip(
                rules(self, parameters), grad_leaves, parameters.arrays
            )
        ]
        new = replace_fields(self, count=count_of(self) + 1)
        return parameters.tree(updates), new

    def scaled(
        self,
        grad: Inexact[Array, "*shape"],
        param: Inexact[Array, "*shape"],
        loss: Float[Array, ""],
        squared_norm: Float[Array, ""],
    ) -> Inexact[Array, "*shape"]:
        grad = widen(grad.astype(param.dtype))
        return -self.step_size(loss, squared_norm).astype(grad.dtype) * grad

    def step_size(
        self, loss: Float[Array, ""], squared_norm: Float[Array, ""]
    ) -> Float[Array, ""]:
        dtype = self.f_min.dtype
        gap = loss.astype(dtype) - self.f_min
        if self.variant == "sps+":
            gap = jnp.maximum(gap, 0)
        below = squared_norm.astype(dtype) + self.eps
        vanishing = below <= jnp.finfo(dtype).eps
        step = jnp.minimum(gap / jnp.where(vanishing, 1, below), self.max_learning_rate)
        return self.scaling * jnp.where(vanishing, 0, step)

    def eval_params(self, params: M) -> M:
        return params
