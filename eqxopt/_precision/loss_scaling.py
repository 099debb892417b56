"""Losses multiplied by a factor, so that gradients in float16 do not underflow."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32

from .._abstract.nested import inner, inner_transforms
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, reached, scalar_of
from .._abstract.skip import advance_if
from .._abstract.step import Step
from .._abstract.transform import AbstractTransform, count_of
from .._compile.once import all_finite, once_per_shape
from .._dtype import compute_dtype, real_dtype
from .._fields import Hyperparameter, hyperparameter
from .._math import plus_one, plus_one_if, zero_count
from .._tree import Parameters, replace_fields
from .._types import Amount, AnyLeaf, Count, Leaf, Leaves, Self
from .._wrapper.chain import Chain


class LossScaling(AbstractOptimizer):
    r"""Dynamic loss scaling: finds a factor for the loss with which gradients stay in
    the range of float16.

    $$
    \begin{aligned}
    g_t &= \nabla (s_{t-1} f)(\theta_{t-1}) / s_{t-1} \\
    s_t &= \begin{cases}
        \max(b\, s_{t-1}, s_{\min}) & \text{if } g_t \text{ is not finite} \\
        \min(a\, s_{t-1}, s_{\max}) & \text{if the last } n \text{ gradients were} \\
        s_{t-1} & \text{otherwise}
    \end{cases}
    \end{aligned}
    $$

    float16 has no numbers below $2^{-24}$, and gradients often are smaller. Those of
    the loss times `opt.scale` are not. `apply` takes the gradients of the scaled loss,
    and divides them in float32. If any is infinite or NaN, the scale was too large: the
    step is skipped, in which the model and the wrapped optimizer stay as they are, bit
    for bit. bfloat16 has the range of float32 and needs no scaling.

    [`eqxopt.make_step`][] and [`eqxopt.fit`][] multiply the loss by the scale
    themselves, and report the loss without it. A loop of your own does it as follows.
    `value`, `value_fn` and `residual_fn` are those of the loss without the scale.

    ```python
    @eqx.filter_jit
    def train_step(model, opt, batch):
        def scaled_loss(model):
            loss = loss_fn(model, batch)
            return loss.astype(jnp.float32) * opt.scale, loss

        grads, loss = eqx.filter_grad(scaled_loss, has_aux=True)(model)
        model, opt = opt.apply(grads, model, value=loss)
        return model, opt, loss
    ```

    Scaled gradients are for this wrapper alone. So put it outside of all others, such
    as `LossScaling(MasterWeights(AdamW(1e-3)))`, and clip gradients inside. Only
    [`Accumulate`][eqxopt.Accumulate] and what leaves gradients alone, such as
    [`EMA`][eqxopt.EMA], may be outside of it. `count` is the number of calls;
    `optimizer.count` is the number of steps made.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `initial_scale`: $s_0$, in (0, inf). Default $2^{15}$.
    - `growth_interval`: $n$, in [1, inf), a number or a schedule. Default 2000.
    - `growth`: $a$, in [1, inf). Default 2.
    - `backoff`: $b$, in (0, 1]. Default 0.5. Powers of 2 divide without rounding.
    - `min_scale`: $s_{\min}$, in (0, inf). Default 1.
    - `max_scale`: $s_{\max}$, in (0, inf). Default $2^{24}$.

    **Raises:** `make_step` and `fit` raise a `ValueError` if `LossScaling` is in a
    place where it is not given all gradients as they are.

    **Source:** Micikevicius et al., [Mixed Precision
    Training](https://arxiv.org/abs/1710.03740), 2017, Section 3.2. The defaults are
    those of usual implementations.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> loss_fn = lambda x: 1e-8 * x.astype(jnp.float32)
        >>> x = jnp.ones((), jnp.float16)
        >>> print(jax.grad(loss_fn)(x))
        0.0
        >>> opt = eqxopt.LossScaling(eqxopt.SGD(1e6)).init(x)
        >>> step = eqxopt.make_step(loss_fn)
        >>> x, opt, loss = step(x, opt)
        >>> print(x, opt.scale, opt.skipped)
        0.99 32768.0 0

        ```
    """

    optimizer: AbstractOptimizer = inner()
    initial_scale: Hyperparameter = hyperparameter("(0, inf)", default=2.0**15)
    growth_interval: Hyperparameter = hyperparameter("[1, inf)", default=2000)
    growth: Hyperparameter = hyperparameter("[1, inf)", default=2.0)
    backoff: Hyperparameter = hyperparameter("(0, 1]", default=0.5)
    min_scale: Hyperparameter = hyperparameter("(0, inf)", default=1.0)
    max_scale: Hyperparameter = hyperparameter("(0, inf)", default=2.0**24)
    scale: Amount = eqx.field(default=None, init=False)
    """$s$, the factor for the loss of the next step."""
    good_steps: Count = eqx.field(default=None, init=False)
    """The number of finite gradients since the scale changed."""
    skipped: Count = eqx.field(default=None, init=False)
    """The number of steps skipped since `init`."""

    def start(self, parameters: Parameters) -> Self:
        new = begun(self, parameters)
        return replace_fields(
            new,
            optimizer=self.optimizer.start(parameters),
            scale=scalar_of(new, "initial_scale").astype(jnp.float32, copy=True),
            good_steps=zero_count(),
            skipped=zero_count(),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        finite = all_finite(step.grads)
        # Select before the quotient: its derivative by the scale is `x`, even if NaN.
        grads = [
            None if x is None else _over(jnp.where(finite, x, 0), self.scale)
            for x in step.grads
        ]
        updates, optimizer = advance_if(finite, self.optimizer, step.with_grads(grads))
        good_steps = plus_one(self.good_steps)
        grows = reached(self, good_steps, "growth_interval")
        growth, backoff, least, most = (
            scalar_of(self, name).astype(jnp.float32)
            for name in ("growth", "backoff", "min_scale", "max_scale")
        )
        larger = jnp.where(grows, jnp.minimum(growth * self.scale, most), self.scale)
        smaller = jnp.maximum(backoff * self.scale, least)
        return updates, replace_fields(
            self,
            optimizer=optimizer,
            count=count,
            scale=jnp.where(finite, larger, smaller),
            good_steps=jnp.where(finite & ~grows, good_steps, 0),
            skipped=plus_one_if(~finite, self.skipped),
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)


@once_per_shape
def _over(grad: Leaf, scale: Float32[Array, ""]) -> Leaf:
    dtype = compute_dtype(grad.dtype)
    return grad.astype(dtype) / scale.astype(real_dtype(dtype))


def scaling_of(transform: AbstractTransform) -> LossScaling | None:
    """The `LossScaling` in `transform`, however deep, known to get all gradients of the
    scaled loss as they are."""
    if isinstance(transform, LossScaling):
        return transform
    inside = inner_transforms(transform).values()
    found = [(x, scaling) for x in inside if (scaling := scaling_of(x)) is not None]
    if not found:
        return None
    inner, scaling = found[0]
    first = isinstance(transform, Chain) and inner is transform.transforms[0]
    if not first and not transform.passes_gradients:
        name = type(transform).__name__
        raise ValueError(
            f"`LossScaling` must be given all gradients of the scaled loss, before "
            f"anything else uses them: put it around `{name}`, not inside of it"
        )
    return scaling
