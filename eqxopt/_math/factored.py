"""Second moments factored into one row and one column."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Leaf, RealLeaf, Scalar
from .moments import reduced_zeros
from .small import divide, ema, sqrt


def longest_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """The second longest axis and the longest."""
    *_, short, long = sorted(range(len(shape)), key=shape.__getitem__)
    return short, long


def is_factored(shape: tuple[int, ...], least: int) -> bool:
    """Whether two axes have at least the length `least`. An axis of length 0 does not
    count: it has no mean."""
    return len(shape) > 1 and shape[longest_axes(shape)[0]] >= max(least, 1)


def zero_factors(param: Leaf) -> tuple[Float[Array, "*rows"], Float[Array, "*cols"]]:
    """The row and the column of a second moment, before the first update."""
    short, long = longest_axes(param.shape)
    return reduced_zeros(param, (long,)), reduced_zeros(param, (short,))


def mix_factors(
    row: Float[Array, "*rows"],
    col: Float[Array, "*cols"],
    square: RealLeaf,
    decay: Scalar,
) -> tuple[Float[Array, "*rows"], Float[Array, "*cols"]]:
    """The next row and column, given the squares of a gradient."""
    short, long = longest_axes(square.shape)
    return (
        ema(row, jnp.mean(square, axis=long), decay),
        ema(col, jnp.mean(square, axis=short), decay),
    )


def over_root(x: Leaf, row: Float[Array, "*rows"], col: Float[Array, "*cols"]) -> Leaf:
    r"""$x / \sqrt{r c / \operatorname{mean}(r)}$: divides by the root of the second
    moment whose row is $r$ and whose column is $c$."""
    short, long = longest_axes(x.shape)
    row, col = jnp.expand_dims(row, long), jnp.expand_dims(col, short)
    row = divide(row, jnp.mean(row, axis=short, keepdims=True))
    # Take the roots one by one: the product of two small factors could underflow.
    return divide(divide(x, sqrt(row)), sqrt(col))
