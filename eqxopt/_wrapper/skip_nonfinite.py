"""Steps that are not made."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    count_of,
    inner,
    needed_value,
)
from .._abstract.rules import gradients, reached, started
from .._compile.once import all_finite
from .._fields import (
    hyperparameter,
    OptionalHyperparameter,
)
from .._math import plus_one_if, zero_count
from .._tree import Parameters, replace_fields
from .._types import Count, Self
from ._skip import update_if


M = TypeVar("M")


class SkipNonFinite(AbstractOptimizer):
    """Skips a step whose gradients have an infinity or a NaN anywhere.

    In such a step the model and the wrapped optimizer stay as they are, bit for bit. If
    `apply` is given the loss, that has to be finite too. Here `count` is the number of
    calls, and that of the wrapped optimizer the number of steps made.

    What follows gradients that were skipped can be differentiated.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `max_consecutive`: after how many steps skipped in a row to give up: the next one
        is made even if it is not finite, and so is every other until a finite one
        comes, so that a run which has failed is seen to have failed. A number or a
        schedule; `None`, the default, never gives up.

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
    """The steps skipped since `init`."""
    consecutive: Count = eqx.field(default=None, init=False)
    """The steps since the last with finite gradients."""

    def init(self, params: PyTree) -> Self:
        return replace_fields(
            started(self, Parameters(params)),
            optimizer=self.optimizer.init(params),
            skipped=zero_count(),
            consecutive=zero_count(),
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
        loss = None if value is None else needed_value(self, value)

        finite = all_finite([*grad_leaves, loss])
        consecutive = jnp.where(finite, 0, self.consecutive + 1)
        made = finite
        if self.max_consecutive is not None:
            made = finite | reached(self, consecutive - 1, "max_consecutive")
        updates, optimizer = update_if(
            made,
            self.optimizer,
            grad_leaves,
            parameters,
            value=loss,
            value_fn=value_fn,
        )
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            skipped=plus_one_if(~made, self.skipped),
            consecutive=consecutive,
        )

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)
