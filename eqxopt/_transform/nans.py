"""Zeros in place of NaNs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._types import Leaf, Scalar


class NaNs(NamedTuple):
    """The NaNs in the gradients of one parameter."""

    found: Bool[Array, ""]  # whether the last gradient had any
    updates: Int[Array, ""]  # how many gradients had any


class ZeroNaNs(AbstractLeafwiseTransform):
    """Replaces every NaN in a gradient by 0, and counts them.

    For the parameter `weight`, `state.weight.found` tells whether its last gradient
    had a NaN, and `state.weight.updates` how many of its gradients had one. Infinite
    entries stay; [`eqxopt.ClipByValue`][] bounds them.

    Where one gradient is NaN, others are often wrong too. If your model should not
    make NaNs, skip the whole step with [`eqxopt.SkipNonFinite`][], or find their cause.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"weight": jnp.ones(3)}
        >>> zero = eqxopt.ZeroNaNs().init(params)
        >>> grads = {"weight": jnp.array([1.0, jnp.nan, 3.0])}
        >>> updates, zero = zero.update(grads, params)
        >>> print(updates["weight"], zero.state["weight"].found)
        [1. 0. 3.] True

        ```
    """

    def init_leaf(self, param: Leaf) -> NaNs:
        return NaNs(found=jnp.zeros((), bool), updates=jnp.zeros((), jnp.int32))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: NaNs
    ) -> tuple[Leaf, NaNs]:
        missing = jnp.isnan(grad)
        found = jnp.any(missing)
        updates = state.updates + found.astype(jnp.int32)
        return jnp.where(missing, 0, grad), NaNs(found, updates)
