"""Differentially private gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from .._abstract.rules import begun, scalar_of
from .._abstract.step import Step
from .._abstract.transform import AbstractTransform, count_of
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, widest_real_dtype
from .._fields import (
    Hyperparameter,
    hyperparameter,
    Key,
    key_field,
    KeyData,
    own_keys,
)
from .._math import abs_sq, clip_factor, plus_one, sqrt
from .._tree import Parameters, replace_fields
from .._types import Leaf, Leaves, Scalar, Self


class DifferentiallyPrivateAggregate(AbstractTransform):
    r"""Clips the gradient of each example, and averages them with noise: DP-SGD.

    $$
    \begin{aligned}
    \bar g_i &= \min\left( 1, \frac{c}{\|g_i\|} \right) g_i \\
    u_t &= \frac1B \left( \sum_{i=1}^B \bar g_i + n_t \right), \qquad
        n_t \sim \mathcal N(0, \sigma^2 c^2)
    \end{aligned}
    $$

    It takes a gradient for each of $B$ examples, along a leading axis that `jax.vmap`
    makes. Only the first transform of the outermost [`Chain`][eqxopt.Chain] may be
    given that axis, so put it there:

    ```python
    opt = eqxopt.Chain(
        eqxopt.DifferentiallyPrivateAggregate(1.0, 1.1, seed=0), eqxopt.SGD(0.1)
    )
    grads = jax.vmap(eqx.filter_grad(loss_fn), in_axes=(None, 0))(model, batch)
    ```

    The norm of an example's gradient is taken over all parameters together. How private
    the training is also depends on how batches are drawn and on the number of steps:
    compute it with an accountant, such as those of the packages `dp-accounting` and
    `opacus`. The noise comes from JAX's generator, which is not cryptographically
    secure.

    A complex parameter gets $n_t$ in its real part and in its imaginary part. optax
    draws other numbers from the same distribution.

    **Arguments:**

    - `l2_norm_clip`: $c$, in (0, inf), the largest norm of an example's gradient.
    - `noise_multiplier`: $\sigma$, in [0, inf).
    - `seed`: an integer or a random key. Keep it secret.

    **Raises:** a `ValueError` for a gradient without the leading axis, or with another
    number of examples than the rest.

    **Source:** Abadi et al., [Deep Learning with Differential
    Privacy](https://arxiv.org/abs/1607.00133), 2016, Algorithm 1.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> x = jnp.array([0.0, 0.0])
        >>> examples = jnp.array([[3.0, 4.0], [0.3, 0.4]])
        >>> grads = jax.vmap(jax.grad(jnp.vdot), in_axes=(None, 0))(x, examples)
        >>> mean = eqxopt.DifferentiallyPrivateAggregate(1.0, 0.0, seed=0).init(x)
        >>> update, mean = mean.update(grads, x)
        >>> print(f"{update[0]:.2f} {update[1]:.2f}")
        0.45 0.60

        ```
    """

    per_example = True

    l2_norm_clip: Hyperparameter = hyperparameter("(0, inf)")
    noise_multiplier: Hyperparameter = hyperparameter("[0, inf)")
    seed: Key = key_field()

    def start(self, parameters: Parameters) -> Self:
        return begun(self, parameters)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count, parameters = count_of(self), step.parameters
        clip = scalar_of(self, "l2_norm_clip")
        std = scalar_of(self, "noise_multiplier") * clip
        factors = _clip_factors([x for x in step.grads if x is not None], clip)
        keys = own_keys(self, count, len(parameters))
        means = [
            None if x is None else _noisy_mean(x, param, factors, std, own["seed"])
            for x, param, own in zip(step.grads, parameters.arrays, keys)
        ]
        return means, replace_fields(self, count=plus_one(count))


def _clip_factors(
    grads: Sequence[Inexact[Array, "batch ..."]], clip: Scalar
) -> Float[Array, " batch"]:
    """The factor for the gradient of each example."""
    if not grads:
        return jnp.zeros((0,), float)
    dtype = widest_real_dtype(grads)
    squares = jnp.stack([_square_norms(x).astype(dtype) for x in grads])
    return clip_factor(sqrt(jnp.sum(squares, axis=0)), clip.astype(dtype))


@once_per_shape
def _square_norms(grads: Inexact[Array, "batch ..."]) -> Float[Array, " batch"]:
    wide = grads.astype(compute_dtype(grads.dtype))
    return jnp.sum(abs_sq(wide), axis=tuple(range(1, grads.ndim)))


@once_per_shape
def _noisy_mean(
    grads: Inexact[Array, " batch *shape"],
    param: Leaf,
    factors: Float[Array, " batch"],
    std: Scalar,
    key: KeyData,
) -> Leaf:
    dtype = compute_dtype(param.dtype)
    real, shape = real_dtype(dtype), (len(grads), *[1] * param.ndim)
    clipped = factors.reshape(shape).astype(real) * grads.astype(dtype)
    noise = jax.random.normal(jax.random.wrap_key_data(key), param.shape, dtype)
    if jnp.iscomplexobj(param):
        # JAX's complex normal numbers have half the variance in each part.
        noise = 2**0.5 * noise
    total = jnp.sum(clipped, axis=0) + std.astype(real) * noise
    return total / max(len(grads), 1)
