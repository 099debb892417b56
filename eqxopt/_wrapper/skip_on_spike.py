"""Steps that are not made because the loss or the gradient jumped."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, scalar_of
from .._abstract.skip import advance_if
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._fields import Hyperparameter, hyperparameter
from .._math import global_norm, plus_one, plus_one_if, sqrt, zero_count
from .._number import integer
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Count, Leaves, Scalar, Self


class Recent(NamedTuple):
    """The last finite values of a number, and how many there have been in all."""

    values: Float[Array, " window"]
    seen: Int[Array, ""]


class SkipOnSpike(AbstractOptimizer):
    r"""Skips a step whose loss or gradient is far larger than those of recent steps.

    A step is skipped if its loss $f_t$ is a spike,

    $$
    f_t > \mu_t + k\, \sigma_t
    $$

    with the mean $\mu_t$ and the standard deviation $\sigma_t$ of the last $n$ losses
    before it. The norm of all gradients together is tested in the same way. The values
    of skipped steps are included, so that a loss which stays high is soon accepted. No
    value is a spike until $\lfloor n / 2 \rfloor$ are known, and at least two. A step
    whose loss or norm is not finite is always skipped, and that value is not
    remembered. In a skipped step the model and the wrapped optimizer stay as they are,
    bit for bit. The loss is compared only if `apply` is given it: `opt.apply(grads,
    model, value=loss)`. `count` is the number of calls; `optimizer.count` that of steps
    made.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `sigma_factor`: $k$, in [0, inf), a number or a schedule. Default 6.
    - `window`: $n$, an integer in [2, inf). Default 128.

    **Source:** OLMo et al., [2 OLMo 2 Furious](https://arxiv.org/abs/2501.00656), 2025,
    and the authors' [OLMo-core](https://github.com/allenai/OLMo-core), with its
    defaults. There a NaN makes all steps skipped until it has left the window.

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
    window: int = integer("[2, inf)", default=128)
    losses: PyTree = eqx.field(default=None, init=False)
    """The last losses."""
    gradient_norms: PyTree = eqx.field(default=None, init=False)
    """The last norms of all gradients together."""
    skipped: Count = eqx.field(default=None, init=False)
    """The number of steps skipped since `init`."""
    consecutive: Count = eqx.field(default=None, init=False)
    """The number of steps skipped since the last that was made."""

    def start(self, parameters: Parameters) -> Self:
        empty = lambda: Recent(jnp.zeros((self.window,), float), zero_count())
        return replace_fields(
            begun(self, parameters),
            optimizer=self.optimizer.start(parameters),
            losses=empty(),
            gradient_norms=empty(),
            skipped=zero_count(),
            consecutive=zero_count(),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        loss = step.value
        norm = global_norm(x for x in step.grads if x is not None)
        sigmas = scalar_of(self, "sigma_factor")
        made = ~_is_spike(norm, self.gradient_norms, sigmas)
        if loss is not None:
            made = made & ~_is_spike(loss, self.losses, sigmas)
        updates, optimizer = advance_if(made, self.optimizer, step)
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            losses=self.losses if loss is None else _with(self.losses, loss),
            gradient_norms=_with(self.gradient_norms, norm),
            skipped=plus_one_if(~made, self.skipped),
            consecutive=jnp.where(made, 0, plus_one(self.consecutive)),
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)


def _is_spike(value: Scalar, recent: Recent, sigmas: Scalar) -> Bool[Array, ""]:
    # No derivative: a choice has none, and that of the root at 0 is infinite.
    value = jax.lax.stop_gradient(value.astype(recent.values.dtype))
    window = len(recent.values)
    known = jnp.arange(window, dtype=jnp.int32) < recent.seen
    n = jnp.minimum(recent.seen, window).astype(value.dtype)
    # Subtract the value first, so that rounding never makes a constant a spike.
    behind = jnp.where(known, value - recent.values, 0)
    mean = jnp.sum(behind) / jnp.maximum(n, 1)
    squares = jnp.where(known, jnp.square(behind - mean), 0)
    std = sqrt(jnp.sum(squares) / jnp.maximum(n - 1, 1))
    enough = n >= max(2, window // 2)
    return ~jnp.isfinite(value) | (enough & (mean > sigmas.astype(value.dtype) * std))


def _with(recent: Recent, value: Scalar) -> Recent:
    """`recent` with one more value, if that is finite."""
    values, seen = recent
    new = values.at[seen % len(values)].set(value.astype(values.dtype))
    finite = jnp.isfinite(value)
    return Recent(jnp.where(finite, new, values), plus_one_if(finite, seen))
