"""SM3."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import Hyperparameter, hyperparameter, OptionalHyperparameter
from .._math import abs_sq, divide, ema, reduced_zeros, sqrt, squarable
from .._types import FirstMoment, Leaf, Scalar


class Cover(NamedTuple):
    """For each axis of a parameter, a bound of the sum of squared gradients in every
    slice across it; and with momentum the running mean of the steps."""

    bounds: tuple[Float[Array, "..."], ...]
    mean: FirstMoment | None


class SM3(AbstractLeafwiseOptimizer):
    r"""Adagrad in the memory of one row and one column. Instead of a sum of squares for
    each entry $i$, it keeps a bound $\mu(r)$ for each slice $r$ of the parameter: each
    row and each column of a matrix, and so on along all axes of an array.

    $$
    \begin{aligned}
    \nu_t(i) &= \min_{r \ni i} \mu_{t-1}(r) + |g_t(i)|^2 \\
    \mu_t(r) &= \max_{i \in r} \nu_t(i) \\
    x_t &= g_t / \sqrt{\nu_t + \varepsilon} \\
    m_t &= \beta m_{t-1} + (1 - \beta)\, x_t \\
    u_t &= -\alpha_t\, m_t
    \end{aligned}
    $$

    A vector has a bound for each entry, and a scalar has one: there SM3 is Adagrad with
    sums that start at 0. The bounds never fall, so the steps tend to 0, as Adagrad's.
    This is the paper's SM3-II. The paper has $\varepsilon = 0$ and takes $0 / 0$ as 0,
    as `eps=0` does here; the default is optax's.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `momentum`: $\beta$, in [0, 1), which takes memory of the parameter's size, or
        `None` for $m_t = x_t$. Default 0.9, as in the paper.
    - `eps`: $\varepsilon$, inside the root, in [0, inf). Default 1e-8. Keyword only.

    **Source:** Anil, Gupta, Koren and Singer, [Memory-Efficient Adaptive
    Optimization](https://arxiv.org/abs/1901.11150), 2019.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    momentum: OptionalHyperparameter = hyperparameter("[0, 1)", default=0.9)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8, kw_only=True)

    def init_leaf(self, param: Leaf) -> Cover:
        bounds = tuple(reduced_zeros(param, axes) for axes in across(param.ndim))
        return Cover(bounds, None if self.momentum is None else zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Cover
    ) -> tuple[Leaf, Cover]:
        grad = squarable(grad)
        cover = across(grad.ndim)
        bounds = [jnp.expand_dims(mu, axes) for mu, axes in zip(state.bounds, cover)]
        nu = functools.reduce(jnp.minimum, bounds) + abs_sq(grad)
        # `initial` gives the slices of an empty array a bound.
        bounds = tuple(jnp.max(nu, axis=axes, initial=0) for axes in cover)
        step = divide(grad, sqrt(nu + self.eps))
        momentum, mean = self.momentum, state.mean
        if momentum is not None and mean is not None:
            step = mean = ema(mean, step, momentum)
        return -self.learning_rate * step, Cover(bounds, mean)


def across(ndim: int) -> list[tuple[int, ...]]:
    """For each axis all the others, which a slice across it spans; for a scalar, whose
    only slice spans none, `[()]`."""
    axes = range(ndim)
    return [tuple(j for j in axes if j != i) for i in axes] or [()]
