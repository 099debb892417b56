"""Steps that are not made because a gradient or the loss is not finite."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, reached
from .._abstract.skip import advance_if
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._compile.once import all_finite
from .._fields import hyperparameter, OptionalHyperparameter
from .._math import plus_one, plus_one_if, zero_count
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Count, Leaves, Self


class SkipNonFinite(AbstractOptimizer):
    """Skips a step whose gradients have an infinity or a NaN anywhere.

    In a skipped step the model and the wrapped optimizer stay as they are, bit for bit.
    If `apply` is given the loss, the loss must be finite, too. `count` is the number of
    calls; `optimizer.count` is the number of steps made. Training through skipped steps
    can be differentiated: derivatives stay finite.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `max_consecutive`: how many steps in a row may be skipped, in [0, inf), a number
        or a schedule. After these, steps are made even if they are not finite, until
        a finite one comes. So a run that has failed is seen to have failed. Default
        `None`, for no limit.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array([1.0, 2.0])
        >>> opt = eqxopt.SkipNonFinite(eqxopt.Adam(0.1)).init(params)
        >>> params, opt = opt.apply(jnp.array([1.0, jnp.nan]), params)
        >>> print(params, opt.skipped, opt.consecutive, opt.optimizer.count)
        [1. 2.] 1 1 0

        ```
    """

    optimizer: AbstractOptimizer = inner()
    max_consecutive: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    skipped: Count = eqx.field(default=None, init=False)
    """The number of steps skipped since `init`."""
    consecutive: Count = eqx.field(default=None, init=False)
    """The number of steps since the last that was finite."""

    def start(self, parameters: Parameters) -> Self:
        return replace_fields(
            begun(self, parameters),
            optimizer=self.optimizer.start(parameters),
            skipped=zero_count(),
            consecutive=zero_count(),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        made = finite = all_finite([*step.grads, step.value])
        consecutive = jnp.where(finite, 0, plus_one(self.consecutive))
        if self.max_consecutive is not None:
            made = finite | reached(self, consecutive - 1, "max_consecutive")
        updates, optimizer = advance_if(made, self.optimizer, step)
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            skipped=plus_one_if(~made, self.skipped),
            consecutive=consecutive,
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)
