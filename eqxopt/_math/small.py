"""Small functions for update rules."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._dtype import compute_dtype, widen, widest_real_dtype
from .._types import AnyLeaf, Leaf, Leaves, RealLeaf, Scalar


T = TypeVar("T")


def ema(mean: Leaf, new: Leaf, decay: Float[Array, "..."]) -> Leaf:
    r"""Exponential moving average, $\beta m + (1 - \beta) x$."""
    # With two weights. A step of `new - mean` would lose `new` to rounding where the
    # mean is much larger and the decay is small, and could overflow.
    return decay * mean + (1 - decay) * new


def debias(mean: Leaf, decay: Float[Array, "..."], t: Float[Array, "..."]) -> Leaf:
    r"""Correct the bias of an `ema` that started from zeros, after `t` steps:
    $m / (1 - \beta^t)$."""
    return mean / one_minus_power(decay, t)


@jax.custom_jvp
def one_minus_power(
    base: Float[Array, "..."], t: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""$1 - b^t$ for $0 \le b < 1$ and $t \ge 1$, without cancellation near $b = 1$.

    In float32, `1 - b**t` loses five digits in the first steps of `b = 0.999`.
    """
    return -jnp.expm1(t * jnp.log(base))


@one_minus_power.defjvp
def _one_minus_power_jvp(primals, tangents):
    # Through log and expm1 the derivative is 0 * inf at b = 0, a value that people do
    # use. The step count t has no tangent.
    base, t = primals
    base_dot, _ = tangents
    return one_minus_power(base, t), -t * jnp.power(base, t - 1) * base_dot


def abs_sq(x: Leaf) -> RealLeaf:
    r"""$|x|^2$, which is real for complex $x$ too."""
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


def squarable(x: Leaf) -> Leaf:
    r"""`x` with entries so small that the sum of their squares is finite, with room to
    spare. In float32, $n$ entries may be as large as $2^{56} / \sqrt n$, which is also
    what infinities become. NaN stays NaN."""
    # One operation, which the compiler repeats wherever `x` is used. More of them, to
    # keep infinities, it makes an array of its own.
    if jnp.iscomplexobj(x):
        return jax.lax.complex(squarable(x.real), squarable(x.imag))
    limit = 2.0**-8 * (float(jnp.finfo(x.dtype).max) / max(x.size, 1)) ** 0.5
    return jnp.clip(x, -limit, limit)


def unless_overflown(
    grad: AnyLeaf, square: Float[Array, "..."]
) -> tuple[AnyLeaf, Float[Array, "..."]]:
    """A gradient and the sum of its squares, both 0 where this is infinite.

    For sums over many entries, in place of `squarable`: the compiler makes a sum of
    plain squares a product of matrices, which is far faster.
    """
    fits = square != jnp.inf  # a NaN is to be seen
    return grad * fits.astype(square.dtype), jnp.where(fits, square, 0)


@jax.custom_jvp
def sqrt(x: RealLeaf) -> RealLeaf:
    r"""$\sqrt x$, with derivative 0 at 0, so that training can be differentiated where
    a gradient is exactly 0."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    at_zero = x == 0
    slope = jnp.where(at_zero, 0, 0.5 / jnp.sqrt(jnp.where(at_zero, 1, x)))
    return sqrt(x), slope * x_dot


@jax.custom_jvp
def cbrt(x: RealLeaf) -> RealLeaf:
    r"""$\sqrt[3] x$, with derivative 0 at 0, as for `sqrt`."""
    return jnp.cbrt(x)


@cbrt.defjvp
def _cbrt_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    root = cbrt(x)
    at_zero = x == 0
    # Divide twice: the square of a small root may underflow.
    safe = jnp.where(at_zero, 1, root)
    return root, jnp.where(at_zero, 0, x_dot / 3 / safe / safe)


@jax.custom_jvp
def power(x: Scalar, exponent: Scalar) -> Scalar:
    r"""$x^p$ for $x, p \ge 0$, with derivatives 0 at $x = 0$."""
    return jnp.power(x, exponent)


@power.defjvp
def _power_jvp(primals, tangents):
    (x, exponent), (x_dot, exponent_dot) = primals, tangents
    at_zero = x == 0
    safe = jnp.where(at_zero, 1, x)
    slope = exponent * jnp.power(safe, exponent - 1) * x_dot
    slope = slope + jnp.log(safe) * jnp.power(safe, exponent) * exponent_dot
    return power(x, exponent), jnp.where(at_zero, 0, slope)


def agreement(x: Leaf, y: Leaf) -> RealLeaf:
    r"""Whether entries point the same way: positive if they do, negative if they
    oppose each other, and 0 if they are at right angles or one of them is 0."""
    # Multiply signs: a product of small numbers may underflow.
    if jnp.iscomplexobj(x):
        return (jnp.conj(jnp.sign(x)) * jnp.sign(y)).real
    return jnp.sign(x) * jnp.sign(y)


def squared_norm(x: AnyLeaf) -> Scalar:
    r"""$\|x\|^2$, over all entries."""
    return jnp.sum(abs_sq(x))


def norm(x: AnyLeaf) -> Scalar:
    r"""$\|x\|$, the Euclidean norm of all entries, with derivative 0 at 0."""
    return sqrt(squared_norm(x))


def inner_product(x: Leaf, y: Leaf) -> Scalar:
    r"""$\langle x, y \rangle = \operatorname{Re} x^* y$ over all entries. A complex
    entry counts as two real ones."""
    # `jnp.vdot` would flatten arrays that may be sharded, and on accelerators it
    # multiplies in less than full precision.
    return jnp.sum((jnp.conj(x) * y).real)


def rms(x: AnyLeaf) -> Scalar:
    """The root mean square of all entries, with derivative 0 at 0."""
    return norm(x) / max(x.size, 1) ** 0.5


@jax.custom_jvp
def divide(x: AnyLeaf, y: Float[Array, "..."]) -> AnyLeaf:
    r"""$x / y$, and 0 where $y$ is 0."""
    at_zero = y == 0
    return jnp.where(at_zero, 0, x / jnp.where(at_zero, 1, y))


@divide.defjvp
def _divide_jvp(primals, tangents):
    # The usual derivative has y**-2, which overflows in float32 long before x / y does.
    (x, y), (x_dot, y_dot) = primals, tangents
    quotient = divide(x, y)
    return quotient, divide(x_dot - quotient * y_dot, y)


def trust_ratio(
    param_norm: Scalar,
    update_norm: Scalar,
    coefficient: float | Scalar = 1.0,
    eps: float | Scalar = 0.0,
) -> Scalar:
    r"""$c\, \|\theta\| / (\|u\| + \varepsilon)$, and 1 where one of the norms is 0."""
    zero = (param_norm == 0) | (update_norm == 0)
    ratio = divide(coefficient * param_norm, update_norm + eps)
    return jnp.where(zero, 1, ratio)


def sum_of_squares(arrays: Iterable[AnyLeaf]) -> Scalar:
    r"""$\sum_i \|x_i\|^2$, in the widest real dtype among them and float32."""
    squares = [squared_norm(widen(x)) for x in arrays]
    dtype = widest_real_dtype(squares)
    return sum((x.astype(dtype) for x in squares), jnp.zeros((), dtype))


def stable_norm(x: AnyLeaf, axes: tuple[int, ...] | None = None) -> Float[Array, "..."]:
    r"""The Euclidean norm of all entries, or over `axes`, which are kept with length 1.
    Unlike in `norm`, no square overflows or underflows."""
    keep = axes is not None
    magnitude = jnp.abs(x) if jnp.iscomplexobj(x) else x
    # The norm does not depend on the scale, so do not differentiate the scale. A
    # minimum and a maximum cost less than the largest magnitude, for which XLA would
    # write all magnitudes to memory.
    low, high = (
        extreme(jax.lax.stop_gradient(magnitude), axis=axes, keepdims=keep, initial=0)
        for extreme in (jnp.min, jnp.max)
    )
    largest = jnp.maximum(-low, high)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.square(magnitude / scale)
    return scale * sqrt(jnp.sum(squares, axis=axes, keepdims=keep))


def global_norm(arrays: Iterable[AnyLeaf]) -> Scalar:
    r"""The `stable_norm` of all `arrays` together, in the widest real dtype among them
    and float32."""
    # The norm of the norms. With one scale for all arrays, a model of hundreds of them
    # takes minutes to compile.
    norms = [_norm_as_row(x) for x in arrays]
    dtype = widest_real_dtype(norms)
    rows = [x.astype(dtype) for x in norms]
    return stable_norm(jnp.concatenate(rows) if rows else jnp.zeros((0,), dtype))


@jax.jit
def _norm_as_row(x: AnyLeaf) -> Float[Array, "1"]:
    # Traced once for all arrays of one shape. Rows are concatenated in one operation;
    # each scalar would need another one to become a row.
    return stable_norm(widen(x))[None]


def clip_factor(
    norm: Float[Array, "..."], max_norm: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""$\min(1, c / \|x\|)$, the factor that makes a norm at most $c$. It is exactly 1
    where the norm is at most $c$, also where it is 0."""
    # Where the norm is small, differentiate norm / norm: the derivative of c / norm
    # could overflow.
    shrunk = divide(jnp.minimum(norm, max_norm), norm)
    return jnp.where(norm <= max_norm, 1, shrunk)


def clipped(x: Leaf, bound: Scalar) -> Leaf:
    """`x` with no entry larger than `bound` in magnitude."""
    if jnp.iscomplexobj(x):
        return x * clip_factor(jnp.abs(x), bound)
    return jnp.clip(x, -bound, bound)


def ramp(step: Scalar, begin: float | Scalar, length: float | Scalar) -> Scalar:
    """A line from 0 at `begin` to 1 after `length` steps, constant before and after.

    A length of 0 is a jump. At both corners this has the derivative from the right.
    """
    elapsed = step - begin
    risen = jnp.where(elapsed >= 0, divide(elapsed, jnp.asarray(length)), 0)
    return jnp.where(elapsed < length, risen, 1)


def lerp(start: AnyLeaf, end: AnyLeaf, done: Scalar) -> AnyLeaf:
    """Linear interpolation from `start` to `end`, exact at both, and where they are
    equal."""
    # Go from the nearer of the two: their difference is rounded.
    near_end = done > 0.5
    nearer = jnp.where(near_end, end, start)
    return nearer + jnp.where(near_end, done - 1, done) * (end - start)


def half_cosine(done: Scalar, exponent: float | Scalar = 1.0) -> Scalar:
    r"""$(\frac12 + \frac12 \cos(\pi d))^p$, from 1 to exactly 0."""
    # As a square the base is never negative. Nor is it exactly 0, where a power may
    # have no derivative.
    height = jnp.square(jnp.cos(0.5 * jnp.pi * done))
    return jnp.where(done < 1, height**exponent, 0)


def product(
    x: Inexact[Array, "batch _ _"], y: Inexact[Array, "batch _ _"]
) -> Inexact[Array, "batch _ _"]:
    """The product of matrices in a batch, in full precision."""
    # By default, accelerators multiply float32 matrices in a lower precision, in which
    # small eigenvalues are lost.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def adjoint(x: Inexact[Array, "batch _ _"]) -> Inexact[Array, "batch _ _"]:
    """The conjugate transpose of matrices in a batch."""
    return jnp.swapaxes(x.conj(), -2, -1)


def zero_count() -> Int[Array, ""]:
    return jnp.zeros((), jnp.int32)


def plus_one(count: Int[Array, "..."]) -> Int[Array, "..."]:
    """The next count. The largest stays: the integer after it is negative."""
    return jnp.minimum(count, jnp.iinfo(count.dtype).max - 1) + 1


def plus_one_if(condition: Bool[Array, ""], count: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.where(condition, plus_one(count), count)


def own_copy(param: Leaf) -> Leaf:
    """A copy of `param` in its compute dtype, always in a new buffer."""
    return jnp.array(param, dtype=compute_dtype(param.dtype), copy=True)


def no_update(x: Leaf) -> Leaf:
    """An update that changes no bit of a parameter: -0.0, because adding 0.0 would turn
    a parameter of -0.0 into 0.0."""
    return jnp.full_like(x, complex(-0.0, -0.0) if jnp.iscomplexobj(x) else -0.0)


def select(condition: Bool[Array, ""], new: T, old: T) -> T:
    """`new` if the condition holds and `old` otherwise, leaf by leaf.

    Both are always evaluated, so `jax.vmap` adds no cost. The result has the containers
    of `new`: a checkpoint may have restored `old` in others.
    """
    leaves, treedef = jtu.tree_flatten(new)
    return treedef.unflatten(
        [jnp.where(condition, a, b) for a, b in zip(leaves, jtu.tree_leaves(old))]
    )


def moved(params: Sequence[AnyLeaf], updates: Leaves) -> list[AnyLeaf]:
    """The parameters after their updates."""
    return [
        param if update is None else added(param, update)
        for param, update in zip(params, updates)
    ]


def added(param: Leaf, update: Leaf) -> Leaf:
    """`param + update`, summed in the wider dtype and rounded once."""
    if param.dtype == update.dtype:
        return jax.lax.add(param, update)  # traced faster than `+`
    return (param.astype(update.dtype) + update).astype(param.dtype)
