"""A dense inverse Hessian, updated by Broyden's family."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._abstract.rules import scalar_of
from .._dtype import widest_real_dtype
from .._fields import hyperparameter, OptionalHyperparameter
from .._line_search.abstract import AbstractLineSearch
from .._line_search.zoom import ZoomLineSearch
from .._math import (
    multiplied,
    plus_one_if,
    size_as_vector,
    zero_count,
)
from .._number import integer
from .._sharding import gathered
from .._tree import Parameters, replace_fields
from .._types import Amount, Count, Leaf, Scalar, Self, Vector
from ._active import Active, Arrays
from ._pairs import first_scale, has_curvature, is_positive, Last, Pair
from .abstract import AbstractNewtonOptimizer, as_search


class Products(NamedTuple):
    r"""What the weights of an update are made of. With $B = H^{-1}$ and $\rho = 1 /
    s^\top y$ these do not depend on the units of the parameters."""

    h: Scalar
    r"""$\rho\, y^\top H y$"""
    b: Scalar
    r"""$\rho\, s^\top B s$"""
    a: Scalar
    """$b h - 1$, never negative."""
    is_first: Bool[Array, ""]
    """Whether $H$ is still a multiple of the identity."""
    size: int
    """The number of rows of $H$."""


class AbstractDenseOptimizer(AbstractNewtonOptimizer):
    """Multiplies the gradient by a dense inverse Hessian estimated from all steps.

    A subclass says by `weights` which member of Broyden's family updates it.
    """

    uses_value_fn = True

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    linesearch: AbstractLineSearch | None = eqx.field(
        converter=as_search, default_factory=ZoomLineSearch
    )
    max_bytes: int = integer("[0, inf)", default=2**32, kw_only=True)
    inverse_hessian: Float[Array, "n n"] | None = eqx.field(default=None, init=False)
    """$H$, over all parameters one after the other, the identity before the first
    pair."""
    pairs: Count = eqx.field(default=None, init=False)
    """The changes that are in $H$, since it was last the identity."""
    rate: Amount = eqx.field(default=None, init=False)
    r"""$\alpha$ of the last step."""

    @abc.abstractmethod
    def weights(self, products: Products) -> tuple[Scalar, Scalar]:
        r"""$\theta$ and $\tau$ of the next update."""

    def begin(self, parameters: Parameters) -> Self:
        dtype = widest_real_dtype(parameters.arrays)
        size = size_as_vector(parameters.arrays)
        needed = size**2 * dtype.itemsize
        if needed > self.max_bytes:
            raise ValueError(
                f"`{type(self).__name__}` keeps an inverse Hessian of {size} × {size} "
                f"entries for these parameters, {needed:,} bytes, more than "
                f"`max_bytes={self.max_bytes:,}`. Take `LBFGS`, or set `max_bytes`"
            )
        return replace_fields(
            self,
            inverse_hessian=jnp.eye(size, dtype=dtype),
            pairs=zero_count(),
            rate=jnp.ones((), dtype),
        )

    def init_leaf(self, param: Leaf, last: Last) -> Last:
        return last

    def choose(self, active: Active) -> tuple[Self, Arrays, Active]:
        hessian = _fitting(self, active)
        rate = jnp.ones((), hessian.dtype)
        if self.learning_rate is not None:
            rate = scalar_of(self, "learning_rate").astype(hessian.dtype)
        grad = active.vector(active.grads, hessian.dtype)
        plain = first_scale(active.grads).astype(hessian.dtype) * grad
        newton = jnp.where(self.pairs == 0, plain, multiplied(hessian, grad))
        # H is positive definite, except for rounding.
        is_downhill = is_positive(jnp.sum(newton * grad))
        directions = active.parts(-rate * jnp.where(is_downhill, newton, plain))
        pairs = jnp.where(is_downhill, self.pairs, 0)
        return replace_fields(self, rate=rate, pairs=pairs), directions, active

    def learn(
        self, active: Active, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Self, list[Any]]:
        hessian = _fitting(self, active)
        dtype = hessian.dtype
        grad = active.vector(active.grads, dtype)
        s = active.vector([pair.s for pair in changes], dtype)
        y = active.vector([pair.y for pair in changes], dtype)
        is_first = self.pairs == 0
        scale = first_scale(active.grads).astype(dtype)
        hy = jnp.where(is_first, scale * y, multiplied(hessian, y))
        sy, yhy = jnp.sum(s * y), jnp.sum(y * hy)
        is_stored = is_known & has_curvature(changes) & is_positive(yhy)
        # Where nothing is stored, the numbers only have to be finite.
        sy, yhy = jnp.where(is_stored, sy, 1), jnp.where(is_stored, yhy, 1)
        # B s, which is known without B: s is -α H g.
        length = self.rate if self.linesearch is None else self.rate * self.step_size
        sbs = jnp.where(is_stored, -length * jnp.sum(s * grad), 1)
        rho = 1 / sy
        h, b = rho * yhy, jnp.maximum(rho * sbs, jnp.finfo(dtype).tiny)
        a = jnp.maximum(b * h - 1, 0)
        theta, tau = jnp.zeros((), dtype), jnp.where(is_first, h, 1)
        # An unknown part of B s would make H indefinite in other members of the family.
        if all(active.present):
            theta, tau = self.weights(Products(h, b, a, is_first, len(s)))
        phi = (1 - theta) / (1 + a * theta)
        is_stored &= jnp.isfinite(tau) & (tau > 0) & jnp.isfinite(phi)
        # H / tau + Hy u' + s w', so that H is passed over once.
        keep = lambda x: jnp.where(is_stored, x, 0)
        s, hy = keep(s), keep(hy)
        mixed = keep(-phi * rho / tau)
        u = keep((phi - 1) / (yhy * tau)) * hy + mixed * s
        w = mixed * hy + keep(phi * rho * h / tau + rho) * s
        # After a search that found nothing, begin again.
        begins = is_first | ~is_known
        old = jnp.where(begins, jnp.eye(len(s), dtype=dtype), hessian)
        old_scale = jnp.where(is_stored, jnp.where(is_first, scale, 1) / tau, 1)
        new = old_scale * old + _outer(hy, u) + _outer(s, w)
        pairs = jnp.where(is_known, plus_one_if(is_stored, self.pairs), 0)
        new = replace_fields(self, inverse_hessian=new, pairs=pairs)
        return new, active.states


def _fitting(optimizer: AbstractDenseOptimizer, active: Active) -> Float[Array, "n n"]:
    """The inverse Hessian, known to be of these parameters."""
    hessian = optimizer.inverse_hessian
    assert hessian is not None
    size = size_as_vector(active.step.parameters.arrays)
    if hessian.shape != (size, size):
        raise ValueError(
            f"`{type(optimizer).__name__}` has an inverse Hessian of {len(hessian)} "
            f"rows, but the model has {size} parameters. Call `opt = opt.init(model)` "
            "again."
        )
    return gathered(hessian)


def _outer(x: Vector, y: Vector) -> Float[Array, "n n"]:
    return x[:, None] * y[None, :]
