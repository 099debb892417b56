"""SM3."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    OptionalHyperparameter,
)
from .._math import abs_sq, divide, ema, reduced_zeros, sqrt
from .._types import Leaf, Scalar


class Cover(NamedTuple):
    """For each axis of a parameter, a bound on the sum of squared gradients in every
    slice across it; and the running mean of the steps if there is momentum."""

    bounds: tuple[Float[Array, "..."], ...]
    mean: Leaf | None


class SM3(AbstractLeafwiseOptimizer):
    r"""SM3: Adagrad in the memory of one row and one column.

    Instead of a sum of squares for each entry $i$, a bound $\mu(r)$ is kept for each
    slice $r$ of the parameter: each row and each column of a matrix, and so on along
    all axes of an array.

    $$
    \begin{aligned}
    \nu_t(i) &= \min_{r \ni i} \mu_{t-1}(r) + |g_t(i)|^2 \\
    \mu_t(r) &= \max_{i \in r} \nu_t(i) \\
    x_t &= g_t / \sqrt{\nu_t + \varepsilon} \\
    m_t &= \beta m_{t-1} + (1 - \beta)\, x_t \\
    u_t &= -\alpha_t\, m_t
    \end{aligned}
    $$

    A vector has a bound for each entry, and a scalar has one, so there SM3 is Adagrad
    from 0. The bounds never fall, so like Adagrad's the steps tend to 0.

    This is the paper's SM3-II. The paper has $\varepsilon = 0$ and takes $0 / 0$ as 0,
    which happens here too with `eps=0`.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `momentum`: $\beta \in [0, 1)$. Default 0.9, the paper's. It needs memory of the
        parameter's size; `None` keeps none and gives $m_t = x_t$.
    - `eps`: $\varepsilon \ge 0$, inside the root; keyword only. Default 1e-8, as in
        optax.

    **Source:** Anil, Gupta, Koren and Singer, [Memory-Efficient Adaptive
    Optimization](https://arxiv.org/abs/1901.11150), 2019.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.SM3(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.97

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    momentum: OptionalHyperparameter = hyperparameter("[0, 1)", default=0.9)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8, kw_only=True)

    def init_leaf(self, param: Leaf) -> Cover:
        return Cover(
            bounds=tuple(reduced_zeros(param, axes) for axes in across(param.ndim)),
            mean=None if self.momentum is None else zeros_like(param),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Cover
    ) -> tuple[Leaf, Cover]:
        cover = across(grad.ndim)
        bounds = [jnp.expand_dims(mu, axes) for mu, axes in zip(state.bounds, cover)]
        nu = functools.reduce(jnp.minimum, bounds) + abs_sq(grad)
        # Squares are at least 0, which also bounds the slices of an empty array.
        bounds = tuple(jnp.max(nu, axis=axes, initial=0) for axes in cover)
        step = divide(grad, sqrt(nu + self.eps))
        momentum, mean = self.momentum, state.mean
        if momentum is not None and mean is not None:
            step = mean = ema(mean, step, momentum)
        return -self.learning_rate * step, Cover(bounds, mean)


def across(ndim: int) -> list[tuple[int, ...]]:
    """For each axis all the others, which a slice across it spans. The one slice of a
    scalar spans none."""
    axes = range(ndim)
    return [tuple(j for j in axes if j != i) for i in axes] or [()]
