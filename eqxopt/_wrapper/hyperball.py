"""Matrices of constant norm."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._abstract.rules import gradients, rules, started
from .._compile.once import once_per_shape
from .._fields import (
    default_matrices,
    hyperparameter,
    matrices_of,
    MatricesField,
    MatrixView,
    OptionalHyperparameter,
)
from .._math import abs_sq, divide, no_update, own_copy, sqrt, stable_norm
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Scalar, Self
from ._learning_rate import learning_rates


M = TypeVar("M")


class Radius(NamedTuple):
    """The norms of a parameter's matrices, as `init` saw them."""

    radius: Float[Array, "..."]


class Hyperball(AbstractOptimizer):
    r"""Keeps the norm of every matrix, and makes steps of a length relative to it.

    $$
    \begin{aligned}
    \theta' &= \theta_{t-1} + \eta_t R\, u_t / \|u_t\| \\
    \theta_t &= R\, \theta' / \|\theta'\|, \qquad R = \|\theta_0\|
    \end{aligned}
    $$

    The wrapped optimizer's update $u_t$ gives the direction alone, and the learning
    rate $\eta_t$ is the angle of a step. This takes the place of weight decay, which
    does little else to a network with normalization layers than to find a balance of
    norm and learning rate: the wrapped optimizer should have none. A good rate is about
    $\sqrt{\alpha \lambda}$ of the learning rate and weight decay that were good
    without.

    All other parameters get the update $u_t$ as it is. Where $\theta_0$, or an update,
    is 0, nothing moves, so initialize no matrix with zeros, or leave it out.

    **Arguments:**

    - `optimizer`: any optimizer, without weight decay for matrices.
    - `rate`: $\eta \ge 0$. Default `None`, for the wrapped optimizer's learning rate,
        however deep in other wrappers.
    - `matrices`: which parameters are matrices: a function of `(path, array)`, or a
        tree that is a prefix of the model, giving `True` or `"matrix"`; `"stack"`,
        for matrices along a leading axis, of which each has its own norm; and `False`
        or `"fallback"` for all else. By default as for [`eqxopt.Muon`][]. Keyword only.
    - `initial_norm`: whether $R$ is the norm that a matrix had in `init`, in at least
        float32. With `False` it is that of $\theta_{t-1}$, which needs no state, and
        wanders with the rounding of bfloat16. Default `True`, as the authors have it.
        Keyword only.

    **Raises:** without `rate` a `ValueError` if the wrapped optimizer has no learning
    rate, or several; also for a parameter that has too few axes for a matrix.

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
    matrices: MatricesField = matrices_of(default=default_matrices)
    initial_norm: bool = eqx.field(default=True, static=True, kw_only=True)

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        norms = [
            _norm(own_copy(param), view) if view and self.initial_norm else None
            for param, view in zip(parameters.arrays, self._views(parameters))
        ]
        new = replace_fields(
            started(self, parameters),
            optimizer=self.optimizer.init(params),
            state=parameters.tree([x if x is None else Radius(x) for x in norms]),
        )
        new._rates(parameters)  # for its error
        return new

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self) + 1
        parameters = Parameters(params)
        grad_leaves = gradients(self, grads, parameters)
        states = parameters.align(self.state, "`Hyperball`: the optimizer's states")
        rates = self._rates(parameters)
        inner_updates, optimizer = self.optimizer.update(
            grads, params, value=value, value_fn=value_fn
        )
        updates = parameters.align(inner_updates, "the updates")
        for i, view in enumerate(self._views(parameters)):
            update, param = updates[i], parameters.arrays[i]
            if view and update is not None and grad_leaves[i] is not None:
                radius = self._radius(parameters, i, states[i])
                updates[i] = _on_sphere(update, param, radius, rates[i], view)
        return parameters.tree(updates), replace_fields(
            self, optimizer=optimizer, count=count
        )

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)

    def _views(self, parameters: Parameters) -> list[MatrixView | None]:
        return self.matrices.views(parameters, "`Hyperball.matrices`")

    def _rates(self, parameters: Parameters) -> list[Scalar]:
        if self.rate is None:
            return learning_rates(self, self.optimizer, parameters, "give `rate`")
        return [getattr(rule, "rate") for rule in rules(self, parameters)]

    def _radius(
        self, parameters: Parameters, i: int, state: Radius | None
    ) -> Float[Array, "..."] | None:
        """The norm that the `i`-th parameter had, if it is to have that again."""
        if not self.initial_norm:
            return None
        if state is None:
            raise ValueError(
                f"`Hyperball`: {parameters.path(i)} was no matrix when `init` saw the "
                "model. Call `opt = opt.init(model)` again."
            )
        return state.radius


def _axes(view: MatrixView) -> tuple[int, ...]:
    """Over which axes each matrix has its norm."""
    return tuple(range(int(view.batch != 1), len(view.shape)))


@once_per_shape
def _norm(x: AnyLeaf, view: MatrixView) -> Float[Array, "..."]:
    return sqrt(jnp.sum(abs_sq(x), axis=_axes(view), keepdims=True))


@once_per_shape
def _on_sphere(
    update: Leaf,
    param: Leaf,
    radius: Float[Array, "..."] | None,
    rate: Scalar,
    view: MatrixView,
) -> Leaf:
    param = param.astype(update.dtype)
    if radius is None:
        radius = _norm(param, view)
    length = stable_norm(update, _axes(view))  # small with a small learning rate
    moved = param + rate * radius * divide(update, length)
    new = radius * divide(moved, _norm(moved, view))
    return jnp.where(length == 0, no_update(update), new - param)
