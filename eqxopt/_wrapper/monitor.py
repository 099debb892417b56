"""Norms of the last step."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._abstract.rules import gradients, started
from .._math import sqrt, sum_of_squares
from .._tree import Parameters, replace_fields
from .._types import Amount, Self


M = TypeVar("M")


class Monitor(AbstractOptimizer):
    """Keeps the norms of the last step, for logging.

    Each is the Euclidean norm over all parameters together. The gradients are those
    that this optimizer is given: around a chain that clips, they are not clipped yet.
    Training itself stays as it is.

    **Arguments:**

    - `optimizer`: any optimizer.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array([3.0, 4.0])
        >>> opt = eqxopt.Monitor(eqxopt.SGD(0.5)).init(params)
        >>> params, opt = opt.apply(2 * params, params)
        >>> print(opt.gradient_norm, opt.update_norm, opt.parameter_norm)
        10.0 5.0 5.0

        ```
    """

    optimizer: AbstractOptimizer = inner()
    gradient_norm: Amount = eqx.field(default=None, init=False)
    """The norm of the gradients; 0 before the first step."""
    update_norm: Amount = eqx.field(default=None, init=False)
    """The norm of the updates, learning rate and all; 0 before the first step."""
    parameter_norm: Amount = eqx.field(default=None, init=False)
    """The norm of the parameters before the step, or those that `init` saw."""

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        return replace_fields(
            started(self, parameters),
            optimizer=self.optimizer.init(params),
            gradient_norm=jnp.zeros((), float),
            update_norm=jnp.zeros((), float),
            parameter_norm=_norm(parameters.arrays),
        )

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
        updates, optimizer = self.optimizer.update(
            grads, params, value=value, value_fn=value_fn
        )
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            gradient_norm=_norm(grad_leaves),
            update_norm=_norm(parameters.align(updates, "the updates")),
            parameter_norm=_norm(parameters.arrays),
        )

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


def _norm(arrays: list[Any]) -> Amount:
    # Read once, unlike for a norm that is safe from overflow. In one dtype, whatever
    # the arrays have.
    return sqrt(sum_of_squares(x for x in arrays if x is not None)).astype(float)
