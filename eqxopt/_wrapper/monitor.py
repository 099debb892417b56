"""Norms of the last step."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._math import plus_one, sqrt, sum_of_squares
from .._tree import Parameters, replace_fields
from .._types import Amount, AnyLeaf, Leaves, Self


class Monitor(AbstractOptimizer):
    """Keeps the norms of the last step, for logging. Each is the Euclidean norm over
    all parameters together. The gradients are those that `Monitor` is given: around a
    chain that clips, those before clipping. Training itself stays as it is.

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
    """The norm of the updates, learning rate included; 0 before the first step."""
    parameter_norm: Amount = eqx.field(default=None, init=False)
    """The norm of the parameters before the last step, or in `init`."""

    def start(self, parameters: Parameters) -> Self:
        return replace_fields(
            begun(self, parameters),
            optimizer=self.optimizer.start(parameters),
            gradient_norm=jnp.zeros((), float),
            update_norm=jnp.zeros((), float),
            parameter_norm=_norm([*parameters.arrays]),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        updates, optimizer = self.optimizer.advance(step)
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            gradient_norm=_norm(step.grads),
            update_norm=_norm(updates),
            parameter_norm=_norm([*step.parameters.arrays]),
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)


def _norm(arrays: Leaves) -> Amount:
    # Not the norm that is safe from overflow: that reads every array twice. Always of
    # one dtype, whatever dtypes the arrays have.
    return sqrt(sum_of_squares(x for x in arrays if x is not None)).astype(float)
