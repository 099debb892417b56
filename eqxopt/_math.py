"""The small functions that update rules are written in."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ._dtype import widen


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


def norm(x: Inexact[Array, "..."]) -> Float[Array, ""]:
    r"""The Euclidean norm of all entries, $\|x\|$, with derivative 0 at 0."""
    return sqrt(jnp.sum(abs_sq(x)))


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
    squares = [jnp.sum(abs_sq(widen(x))) for x in arrays]
    dtype = max([jnp.dtype(jnp.float32), *(x.dtype for x in squares)], key=_size)
    return sum((x.astype(dtype) for x in squares), jnp.zeros((), dtype))


def _size(dtype: jnp.dtype) -> int:
    return dtype.itemsize
