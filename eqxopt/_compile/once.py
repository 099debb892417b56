"""Work that is done once, also for hundreds of parameters."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool

from .._types import AnyLeaf


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def per_leaf(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, of the arrays of one parameter, compiled on its own so that
    parameters of equal shape are traced once."""

    @jax.jit
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # A complex parameter meets real hyperparameters.
        complex_ = any(map(jnp.iscomplexobj, jtu.tree_leaves((args, kwargs))))
        mode = "standard" if complex_ else jax.config.jax_numpy_dtype_promotion  # pyright: ignore
        with jax.numpy_dtype_promotion(mode):
            return function(*args, **kwargs)

    return run


def all_finite(arrays: Iterable[AnyLeaf | None]) -> Bool[Array, ""]:
    """Whether no array has an infinity or a NaN."""
    each = [jnp.all(jnp.isfinite(x)) for x in arrays if x is not None]
    if not each:
        return jnp.asarray(True)
    # The root keeps the compiler from merging all of `each` into every place where the
    # answer is used, which for 600 parameters makes 4 seconds into 4 minutes: what
    # costs little is repeated, and a root is thought to cost much.
    return jnp.sqrt(jnp.any(~jnp.stack(each)).astype(jnp.float32)) == 0


def summed(terms: Sequence[T], dtype: jnp.dtype) -> T:
    """The sums of `terms`, trees of scalars of one structure, of which there is at
    least one."""
    rows = [
        jnp.stack([x.astype(dtype) for x in jtu.tree_leaves(term)]) for term in terms
    ]
    # A sum costs little, and so a compiler makes it anew in every place where it is
    # used: minutes of work for 600 parameters. A product of matrices it makes once.
    ones = jnp.ones(len(rows), dtype)
    sums = jnp.matmul(ones, jnp.stack(rows), precision=jax.lax.Precision.HIGHEST)
    return jtu.tree_structure(terms[0]).unflatten(jnp.unstack(sums))
