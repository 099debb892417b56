"""Matrices of constant norm."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.wrapper import AbstractWrapper
from .._fields import (
    Blocks,
    default_matrices,
    hyperparameter,
    matrices_of,
    MatricesField,
    OptionalHyperparameter,
)
from .._math import abs_sq, divide, no_update, own_copy, sqrt, stable_norm
from .._types import AnyLeaf, Leaf, Scalar


class Radius(NamedTuple):
    """The norms that a parameter's matrices had in `init`."""

    radius: Float[Array, "..."]


class Hyperball(AbstractWrapper):
    r"""Keeps the norm of every matrix, and makes steps of a length relative to it.

    $$
    \begin{aligned}
    \theta' &= \theta_{t-1} + \eta_t R\, u_t / \|u_t\| \\
    \theta_t &= R\, \theta' / \|\theta'\|, \qquad R = \|\theta_0\|
    \end{aligned}
    $$

    The wrapped optimizer's update $u_t$ gives only the direction; the learning rate
    $\eta_t$ is the angle of a step. This takes the place of weight decay, which in a
    network with normalization layers does little more than find a balance of norm and
    learning rate. So the wrapped optimizer should have none. If a learning rate
    $\alpha$ and a weight decay $\lambda$ were good without, a good rate is about
    $\sqrt{\alpha \lambda}$. All other parameters get the update $u_t$ as it is. A
    matrix that is 0 does not move, nor does one whose update is 0. So do not initialize
    a matrix with zeros, or leave it out.

    **Arguments:**

    - `optimizer`: any optimizer, without weight decay for matrices.
    - `rate`: $\eta$, in [0, inf). Default `None`, for the wrapped optimizer's learning
        rate, however deep in other wrappers.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
        Each matrix of a stack has its own norm. Keyword only.
    - `initial_norm`: whether $R$ is the norm that a matrix had in `init`, kept in at
        least float32. With `False` it is that of $\theta_{t-1}$, which needs no state,
        but drifts with the rounding of bfloat16. Default `True`, as in the authors'
        post; their code takes the current norm. Keyword only.

    **Raises:** without `rate`, `init` raises a `ValueError` if the wrapped optimizer
    has no learning rate, or several; also for a matrix that has too few axes.

    **Source:** Wen et al., [From Weight Decay to Hyperball
    Optimization](https://whenwen.github.io/blog/2025/weight-decay-hyperball-part-1/),
    2025, which calls it AdamH and MuonH around Adam and Muon.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"weight": jnp.diag(jnp.array([3.0, 4.0])), "bias": jnp.ones(2)}
        >>> opt = eqxopt.Hyperball(eqxopt.SGD(0.1)).init(params)
        >>> new, opt = opt.apply({"weight": jnp.eye(2), "bias": jnp.ones(2)}, params)
        >>> print(f"{new['weight'][0, 0]:.2f}", f"{new['weight'][1, 1]:.2f}")
        2.94 4.05
        >>> print(new["bias"])
        [0.9 0.9]

        ```
    """

    optimizer: AbstractOptimizer = inner()
    rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    initial_norm: bool = eqx.field(default=True, static=True, kw_only=True)

    @property
    def needs_inner_rate(self) -> str | None:
        return "give `rate`" if self.rate is None else None

    def init_leaf(self, param: Leaf) -> Radius | tuple[()]:
        if self.matrices is None or not self.initial_norm:
            return ()
        return Radius(_norm(own_copy(self._by_head(param)), self._axes(param)))

    def wrap_leaf(
        self,
        t: Scalar,
        grad: Leaf,
        param: Leaf,
        update: Leaf,
        state: Radius | tuple[()],
    ) -> tuple[Leaf, Radius | tuple[()]]:
        if self.matrices is None:
            return update, state
        shape, axes = param.shape, self._axes(param)
        param, update = self._by_head(param), self._by_head(update)
        radius = state.radius if isinstance(state, Radius) else _norm(param, axes)
        rate = self.inner_rate if self.rate is None else self.rate
        # With a small learning rate, squares of the update may underflow.
        length = stable_norm(update, axes)
        moved = param + rate * radius * divide(update, length)
        new = radius * divide(moved, _norm(moved, axes))
        new_update = jnp.where(length == 0, no_update(update), new - param)
        return new_update.reshape(shape), state

    def eval_leaf(
        self, param: Leaf, evaluated: Leaf, state: Radius | tuple[()]
    ) -> Leaf:
        return evaluated

    def _by_head(self, x: Leaf) -> AnyLeaf:
        """`x` with an axis of its own for heads, before their rows."""
        heads, rows = self.matrices.heads, self._rows(x)
        if heads == 1:
            return x
        shape = [*x.shape[:rows], heads, x.shape[rows] // heads, *x.shape[rows + 1 :]]
        return x.reshape(shape)

    def _axes(self, param: Leaf) -> tuple[int, ...]:
        """The axes of one matrix."""
        first, last, rows = self.matrices.stacked, param.ndim, self._rows(param)
        if self.matrices.heads == 1:
            return tuple(range(first, last))
        return tuple(i for i in range(first, last + 1) if i != rows)

    def _rows(self, x: Leaf) -> int:
        """The axis of outputs."""
        blocks: Blocks = self.matrices
        return x.ndim - 1 if blocks.transposed else blocks.stacked


def _norm(x: Leaf, axes: tuple[int, ...]) -> Float[Array, "..."]:
    return sqrt(jnp.sum(abs_sq(x), axis=axes, keepdims=True))
