"""The small functions that update rules are written in."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ._dtype import widen, widest_real_dtype


def ema(
    mean: Inexact[Array, "*shape"],
    new: Inexact[Array, "*shape"],
    decay: Float[Array, ""],
) -> Inexact[Array, "*shape"]:
    r"""Exponential moving average, $\beta m + (1 - \beta) x$."""
    # One weight, from the one stored `decay`, so that `debias` undoes precisely what
    # this does, also in float32; and written with the fewest operations, because a
    # model has hundreds of parameters to compile this for.
    return mean + (1 - decay) * (new - mean)


def debias(
    mean: Inexact[Array, "*shape"], decay: Float[Array, ""], t: Float[Array, ""]
) -> Inexact[Array, "*shape"]:
    r"""What an `ema` that started from zeros estimates after `t` steps,
    $m / (1 - \beta^t)$."""
    return mean / one_minus_power(decay, t)


@jax.custom_jvp
def one_minus_power(base: Float[Array, ""], t: Float[Array, ""]) -> Float[Array, ""]:
    r"""$1 - b^t$ for $0 \le b < 1$ and $t \ge 1$, without cancellation near $b = 1$.

    In float32, `1 - b**t` loses five digits in the first steps of `b = 0.999`.
    """
    return -jnp.expm1(t * jnp.log(base))


@one_minus_power.defjvp
def _one_minus_power_jvp(primals, tangents):
    # Written out because the derivative through log1p is 0 * inf at b = 0, a value
    # that people do use. The step count t has no tangent.
    base, t = primals
    base_dot, _ = tangents
    return one_minus_power(base, t), -t * jnp.power(base, t - 1) * base_dot


def abs_sq(x: Inexact[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$|x|^2$, real also for complex input."""
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


@jax.custom_jvp
def sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\sqrt x$ whose derivative at 0 is taken as 0, so that training can be
    differentiated where a gradient is exactly 0."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    at_zero = x == 0
    slope = jnp.where(at_zero, 0, 0.5 / jnp.sqrt(jnp.where(at_zero, 1, x)))
    return sqrt(x), slope * x_dot


@jax.custom_jvp
def cbrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\sqrt[3] x$ whose derivative at 0 is taken as 0, like that of `sqrt`."""
    return jnp.cbrt(x)


@cbrt.defjvp
def _cbrt_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    root = cbrt(x)
    at_zero = x == 0
    # In two steps, because the square of a small root may underflow.
    safe = jnp.where(at_zero, 1, root)
    return root, jnp.where(at_zero, 0, x_dot / 3 / safe / safe)


@jax.custom_jvp
def power(x: Float[Array, ""], exponent: Float[Array, ""]) -> Float[Array, ""]:
    r"""$x^p$ for $x, p \ge 0$, whose derivatives at $x = 0$ are taken as 0."""
    return jnp.power(x, exponent)


@power.defjvp
def _power_jvp(primals, tangents):
    (x, exponent), (x_dot, exponent_dot) = primals, tangents
    at_zero = x == 0
    safe = jnp.where(at_zero, 1, x)
    slope = exponent * jnp.power(safe, exponent - 1) * x_dot
    slope = slope + jnp.log(safe) * jnp.power(safe, exponent) * exponent_dot
    return power(x, exponent), jnp.where(at_zero, 0, slope)


def agreement(
    x: Inexact[Array, "*shape"], y: Inexact[Array, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Whether entries point the same way: positive where they do, negative where
    they oppose each other, and 0 at right angles or where one of them is 0."""
    # Of the signs, because a product of small numbers may underflow.
    if jnp.iscomplexobj(x):
        return (jnp.conj(jnp.sign(x)) * jnp.sign(y)).real
    return jnp.sign(x) * jnp.sign(y)


def squared_norm(x: Inexact[Array, "..."]) -> Float[Array, ""]:
    r"""$\|x\|^2$, over all entries."""
    return jnp.sum(abs_sq(x))


def norm(x: Inexact[Array, "..."]) -> Float[Array, ""]:
    r"""The Euclidean norm of all entries, $\|x\|$, with derivative 0 at 0."""
    return sqrt(squared_norm(x))


def inner_product(
    x: Inexact[Array, "*shape"], y: Inexact[Array, "*shape"]
) -> Float[Array, ""]:
    r"""$\langle x, y \rangle$ over all entries, of complex ones as of pairs of real
    ones."""
    # Not with `jnp.vdot`, which flattens what may be sharded and, on accelerators,
    # multiplies in less than full precision.
    return jnp.sum((jnp.conj(x) * y).real)


def rms(x: Inexact[Array, "..."]) -> Float[Array, ""]:
    r"""The root of the mean square of all entries, with derivative 0 at 0."""
    return norm(x) / max(x.size, 1) ** 0.5


@jax.custom_jvp
def divide(x: Inexact[Array, "..."], y: Float[Array, "..."]) -> Inexact[Array, "..."]:
    r"""$x / y$, and 0 where $y$ is 0."""
    at_zero = y == 0
    return jnp.where(at_zero, 0, x / jnp.where(at_zero, 1, y))


@divide.defjvp
def _divide_jvp(primals, tangents):
    # Written out because y**-2, of which the derivative is usually made, overflows in
    # float32 long before x / y does.
    (x, y), (x_dot, y_dot) = primals, tangents
    quotient = divide(x, y)
    return quotient, divide(x_dot - quotient * y_dot, y)


def trust_ratio(
    param_norm: Float[Array, ""],
    update_norm: Float[Array, ""],
    coefficient: float | Float[Array, ""] = 1.0,
    eps: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    r"""$c\, \|\theta\| / (\|u\| + \varepsilon)$, and 1 where one of the norms is 0."""
    zero = (param_norm == 0) | (update_norm == 0)
    ratio = divide(coefficient * param_norm, update_norm + eps)
    return jnp.where(zero, 1, ratio)


def sum_of_squares(arrays: Iterable[Inexact[Array, "..."]]) -> Float[Array, ""]:
    r"""$\sum_i \|x_i\|^2$, in the widest real dtype among them and float32."""
    squares = [squared_norm(widen(x)) for x in arrays]
    dtype = widest_real_dtype(squares)
    return sum((x.astype(dtype) for x in squares), jnp.zeros((), dtype))


def stable_norm(
    x: Inexact[Array, "..."], axes: tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    r"""The Euclidean norm of all entries, or over `axes`, which are kept with length 1.
    Unlike in `norm`, no square overflows or underflows on the way."""
    keep = axes is not None
    magnitude = jnp.abs(x) if jnp.iscomplexobj(x) else x
    # The norm is the same for every scale, and so the scale has no derivative. Two
    # extremes cost less than the largest magnitude, for which all would be written.
    low, high = (
        extreme(jax.lax.stop_gradient(magnitude), axis=axes, keepdims=keep, initial=0)
        for extreme in (jnp.min, jnp.max)
    )
    largest = jnp.maximum(-low, high)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.square(magnitude / scale)
    return scale * sqrt(jnp.sum(squares, axis=axes, keepdims=keep))


def global_norm(arrays: Iterable[Inexact[Array, "..."]]) -> Float[Array, ""]:
    r"""The `stable_norm` of all `arrays` together, in the widest real dtype among them
    and float32."""
    # The norm of their norms: one scale for all would take a compiler minutes where a
    # model has hundreds of arrays. Traced once for all arrays of one shape.
    norm = jax.jit(stable_norm)
    norms = [norm(widen(x)) for x in arrays]
    dtype = widest_real_dtype(norms)
    return stable_norm(jnp.asarray([x.astype(dtype) for x in norms], dtype))


def clip_factor(
    norm: Float[Array, "..."], max_norm: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""$\min(1, c / \|x\|)$, which makes a norm at most $c$: precisely 1 where it
    is, and also where the norm is 0."""
    # Where the norm is small its derivative is that of norm / norm, and so never one
    # of a quotient that overflows.
    shrunk = divide(jnp.minimum(norm, max_norm), norm)
    return jnp.where(norm <= max_norm, 1, shrunk)


def clipped(
    x: Inexact[Array, "*shape"], bound: Float[Array, ""]
) -> Inexact[Array, "*shape"]:
    """`x` with no entry larger than `bound` in magnitude."""
    if jnp.iscomplexobj(x):
        return x * clip_factor(jnp.abs(x), bound)
    return jnp.clip(x, -bound, bound)


def ramp(
    step: Float[Array, ""],
    begin: float | Float[Array, ""],
    length: float | Float[Array, ""],
) -> Float[Array, ""]:
    """From 0 at `begin` straight to 1 after `length` steps, constant before and after.

    A length of 0 is a jump. At both corners the derivative is that from the right.
    """
    elapsed = step - begin
    risen = jnp.where(elapsed >= 0, divide(elapsed, jnp.asarray(length)), 0)
    return jnp.where(elapsed < length, risen, 1)


def lerp(
    start: Float[Array, ""], end: Float[Array, ""], done: Float[Array, ""]
) -> Float[Array, ""]:
    """Linear interpolation from `start` to `end`, exact at both."""
    return (1 - done) * start + done * end


def half_cosine(
    done: Float[Array, ""], exponent: float | Float[Array, ""] = 1.0
) -> Float[Array, ""]:
    r"""$(\frac12 + \frac12 \cos(\pi d))^p$, from 1 to exactly 0."""
    # As a square the base is never negative, nor exactly 0, where a power need not
    # have a derivative.
    height = jnp.square(jnp.cos(0.5 * jnp.pi * done))
    return jnp.where(done < 1, height**exponent, 0)


def product(
    x: Inexact[Array, "batch _ _"], y: Inexact[Array, "batch _ _"]
) -> Inexact[Array, "batch _ _"]:
    # Accelerators else multiply float32 with a precision that small eigenvalues do not
    # survive.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def adjoint(x: Inexact[Array, "batch _ _"]) -> Inexact[Array, "batch _ _"]:
    return jnp.swapaxes(x.conj(), -2, -1)
