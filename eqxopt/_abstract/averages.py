"""Schedule-free steps: of three sequences of weights two are kept."""

from typing import NamedTuple

import jax.numpy as jnp

from .._compile.once import once_per_shape
from .._dtype import compute_dtype, kept_dtype, real_dtype, widen
from .._math import divide, lerp, power
from .._tree import Parameters
from .._types import AnyLeaf, Leaf, Scalar
from .optimizer import AbstractOptimizer
from .rules import kept_states


class Iterates(NamedTuple):
    """Where the steps of a parameter have led, and what its average is made of."""

    z: Leaf
    weight_sum: Scalar
    lost: Scalar  # what rounding has taken from the sum
    max_lr: Scalar
    b1: Scalar  # how near to the average the model now is


def first_iterates(param: Leaf, dtype: jnp.dtype | None) -> Iterates:
    real = real_dtype(compute_dtype(param.dtype))
    return Iterates(
        z=jnp.array(param, dtype=kept_dtype(param.dtype, dtype), copy=True),
        weight_sum=jnp.zeros((), real),
        lost=jnp.zeros((), real),
        max_lr=jnp.zeros((), real),
        b1=jnp.ones((), real),
    )


def next_iterates(
    iterates: Iterates,
    y: Leaf,
    step: Leaf,
    *,
    b1: Scalar,
    lr: Scalar,
    weight_lr_power: Scalar,
    dtype: jnp.dtype | None,
) -> tuple[Leaf, Iterates]:
    """The update of $y$, and the next iterates, once $z$ has made its step.

    All arrays come in the dtype in which a rule computes, $z$ also where it is kept in
    `dtype`.
    """
    max_lr = jnp.maximum(iterates.max_lr, lr)
    weight = power(max_lr, weight_lr_power)
    # Kahan's sum: a plain one of a million equal weights is off by 0.7% in float32.
    term = weight + iterates.lost
    weight_sum = iterates.weight_sum + term
    lost = term - (weight_sum - iterates.weight_sum)
    x = _average(y, iterates.z, iterates.b1)
    # In the precision in which it is kept, so that x can be had from y again.
    z = (iterates.z + step).astype(kept_dtype(y.dtype, dtype)).astype(y.dtype)
    x = lerp(x, z, divide(weight, weight_sum))
    update = z + b1 * (x - z) - y
    return update, Iterates(z, weight_sum, lost, max_lr, b1)


def _average(y: Leaf, z: Leaf, b1: Scalar) -> Leaf:
    """The average $x$ in $y = \\beta_1 x + (1 - \\beta_1) z$."""
    return z + (y - z) / b1


def average_of(iterates: Iterates, param: Leaf) -> Leaf:
    """The average $x$, from what the model holds, $y$, and from $z$."""
    return _average(param, widen(iterates.z, param.dtype), iterates.b1)


def averages(optimizer: AbstractOptimizer, parameters: Parameters) -> list[AnyLeaf]:
    """The averages in place of the parameters, for an optimizer that keeps `Iterates`,
    or has them as `iterates` in its state."""
    return [
        param if state is None else _evaluated(param, getattr(state, "iterates", state))
        for param, state in zip(parameters.arrays, kept_states(optimizer, parameters))
    ]


@once_per_shape
def _evaluated(param: Leaf, iterates: Iterates) -> Leaf:
    wide = param.astype(compute_dtype(param.dtype))
    return average_of(iterates, wide).astype(param.dtype)
