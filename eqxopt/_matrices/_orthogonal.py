"""Momentum as matrices, and matrices made orthogonal: what Muon and its kin share."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from .._compile.once import per_leaf
from .._dtype import compute_dtype, real_dtype, widen
from .._fields.matrices import in_batches, MatrixView
from .._math.moments import debiased_mean, Momentum
from .._math.small import ema
from .._sharding import gathered
from .._types import Leaf, Matrix, Scalar
from ._newton_schulz import newton_schulz, normalized


@per_leaf
def momentum_matrices(
    rule: Any,
    count: Int[Array, ""],
    grad: Leaf,
    param: Leaf,
    state: Momentum,
    view: MatrixView,
) -> tuple[Matrix, Momentum]:
    """The mean gradient as matrices, without bias and, with `rule.nesterov`, one step
    ahead; and the next state."""
    dtype = compute_dtype(param.dtype)
    t, grad = count.astype(real_dtype(dtype)), grad.astype(dtype)
    mu = ema(widen(state.mu, dtype), grad, rule.beta)
    mean = debiased_mean(mu, grad, rule.beta, t, nesterov=rule.nesterov)
    return view.matrices(gathered(mean)), Momentum(mu.astype(state.mu.dtype))


def orthogonalized(
    optimizer: Any,
    matrices: Sequence[Inexact[Array, "_ _ _"]],
    eps: Sequence[Scalar],
    count: Int[Array, ""],
) -> list[Inexact[Array, "_ _ _"]]:
    """All `matrices` with singular values near 1, by the Newton-Schulz steps that the
    options of `optimizer` say."""
    return in_batches(functools.partial(_orthogonal, optimizer), matrices, count, eps)


def _orthogonal(
    optimizer: Any,
    x: Matrix,
    eps: Float[Array, "#batch 1 1"],
) -> Matrix:
    dtype = x.dtype
    if optimizer.compute_dtype is not None and not jnp.iscomplexobj(x):
        dtype = optimizer.compute_dtype
    # Divided in the precision that came: its squares need not fit the other.
    unit = per_leaf(normalized)(x, eps).astype(dtype)
    steps = newton_schulz(
        unit,
        optimizer.ns_coefficients,
        optimizer.ns_steps,
        gram=optimizer.method == "gram",
    )
    return steps.astype(x.dtype)


def spectral_scale(
    rows: int, columns: int, consistent_rms: Scalar | None
) -> float | Scalar:
    """By what an orthogonal matrix is multiplied, so that a step changes outputs
    alike for every shape, or so that its root mean square is the same."""
    if consistent_rms is None:
        return max(1.0, rows / max(columns, 1)) ** 0.5
    return consistent_rms * max(rows, columns) ** 0.5
