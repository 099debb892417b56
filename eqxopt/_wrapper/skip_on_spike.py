"""Steps that are not made because the loss or the gradient jumped."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    count_of,
    inner,
    needed_value,
)
from .._abstract.rules import gradients, scalar_of, started
from .._fields import Hyperparameter, hyperparameter
from .._math import global_norm, plus_one_if, sqrt, zero_count
from .._tree import Parameters, replace_fields
from .._types import Count, Scalar, Self
from ._skip import update_if


M = TypeVar("M")


class History(NamedTuple):
    """The last finite values of a number, and how many there have been."""

    values: Float[Array, " window"]
    seen: Int[Array, ""]


class SkipOnSpike(AbstractOptimizer):
    r"""Skips a step whose loss or gradient is far larger than of late.

    The step is skipped if for the loss $f_t$, or for the norm of all gradients
    together,

    $$
    f_t > \mu_t + k\, \sigma_t
    $$

    with the mean $\mu_t$ and the standard deviation $\sigma_t$ of the last $n$ before
    it, those of skipped steps included: what stays high is soon nothing special any
    more. Nothing is skipped until $n / 2$ are known. A loss or a norm that is not
    finite is always skipped, and not remembered.

    In such a step the model and the wrapped optimizer stay as they are, bit for bit.
    The loss is looked at if `apply` is given it: `opt.apply(grads, model, value=loss)`.
    Here `count` is the number of calls, and that of the wrapped optimizer the number of
    steps made.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `sigma_factor`: $k \ge 0$, a number or a schedule. Default 6.
    - `window`: $n \ge 2$, fixed. Default 128.

    **Source:** OLMo et al., [2 OLMo 2 Furious](https://arxiv.org/abs/2501.00656), 2025,
    and the authors' [OLMo-core](https://github.com/allenai/OLMo-core), with its
    defaults. There one NaN in the window makes all steps skipped until it has left.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.SkipOnSpike(eqxopt.SGD(0.1), window=4).init(params)
        >>> for grad in [1.0, 1.2, 1.1, 50.0, 1.0]:
        ...     params, opt = opt.apply(jnp.array(grad), params)
        ...     print(f"{params:.2f}", opt.skipped)
        0.90 0
        0.78 0
        0.67 0
        0.67 1
        0.57 1

        ```
    """

    optimizer: AbstractOptimizer = inner()
    sigma_factor: Hyperparameter = hyperparameter("[0, inf)", default=6.0)
    window: int = eqx.field(default=128, static=True)
    losses: PyTree = eqx.field(default=None, init=False)
    """The last losses."""
    gradient_norms: PyTree = eqx.field(default=None, init=False)
    """The last norms of all gradients together."""
    skipped: Count = eqx.field(default=None, init=False)
    """The steps skipped since `init`."""
    consecutive: Count = eqx.field(default=None, init=False)
    """The steps skipped since the last that was made."""

    def __check_init__(self) -> None:
        if isinstance(self.window, bool) or self.window < 2:
            raise ValueError(
                f"`SkipOnSpike(window={self.window})`: `window` must be at least 2"
            )

    def init(self, params: PyTree) -> Self:
        nothing = lambda: History(jnp.zeros((self.window,), float), zero_count())
        return replace_fields(
            started(self, Parameters(params)),
            optimizer=self.optimizer.init(params),
            losses=nothing(),
            gradient_norms=nothing(),
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
        norm = global_norm(x for x in grad_leaves if x is not None)

        sigmas = scalar_of(self, "sigma_factor")
        made = ~_is_spike(norm, self.gradient_norms, sigmas)
        if loss is not None:
            made = made & ~_is_spike(loss, self.losses, sigmas)
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
            losses=self.losses if loss is None else _with(self.losses, loss),
            gradient_norms=_with(self.gradient_norms, norm),
            skipped=plus_one_if(~made, self.skipped),
            consecutive=jnp.where(made, 0, self.consecutive + 1),
        )

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


def _is_spike(value: Scalar, history: History, sigmas: Scalar) -> Bool[Array, ""]:
    # No derivative: a choice has none, and a root at 0 none that is finite.
    value = jax.lax.stop_gradient(value.astype(history.values.dtype))
    window = len(history.values)
    known = jnp.arange(window, dtype=jnp.int32) < history.seen
    n = jnp.minimum(history.seen, window).astype(value.dtype)
    # Relative to the value, so that a constant is no spike whatever rounding does.
    behind = jnp.where(known, value - history.values, 0)
    mean = jnp.sum(behind) / jnp.maximum(n, 1)
    squares = jnp.where(known, jnp.square(behind - mean), 0)
    std = sqrt(jnp.sum(squares) / jnp.maximum(n - 1, 1))
    enough = n >= max(2, window // 2)
    return ~jnp.isfinite(value) | (enough & (mean > sigmas.astype(value.dtype) * std))


def _with(history: History, value: Scalar) -> History:
    """The history with one more value, if that is finite."""
    values, seen = history
    new = values.at[seen % len(values)].set(value.astype(values.dtype))
    finite = jnp.isfinite(value)
    return History(jnp.where(finite, new, values), plus_one_if(finite, seen))
