"""Sophia."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, kept_alone, rules, states_of
from .._abstract.step import needed_value_fn, Step
from .._abstract.transform import count_of
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, real_zeros_like, widen, zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    Key,
    key_field,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import clipped, debias, ema, plus_one
from .._number import integer
from .._sharding import cond, placed_with, tied
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, FirstMoment, Leaf, Leaves, RealLeaf, Scalar, Self


class Curvature(NamedTuple):
    """The running means of a parameter's gradient and of its Hessian's diagonal."""

    mu: FirstMoment
    hessian: RealLeaf


class Sophia(AbstractOptimizer):
    r"""Divides the momentum by the curvature of the loss, and clips the quotient, which
    is too large where the curvature is small or negative.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        \hat m_t = m_t / (1 - \beta_1^t) \\
    u_t &= -\alpha_t \left( \operatorname{clip}\left( \hat m_t /
        \max(\gamma h_{t-1}, \varepsilon),\, \pm\rho \right) +
        \lambda \theta_{t-1} \right) \\
    h_t &= \begin{cases}
        \beta_2 h_{t-1} + (1 - \beta_2)\, z \odot \nabla^2 f(\theta_{t-1})\, z &
            \text{if } k \text{ divides } t - 1 \\
        h_{t-1} & \text{otherwise}
    \end{cases}
    \end{aligned}
    $$

    Every entry of $z$ is 1 or -1 at random: this is Hutchinson's estimate of the
    diagonal of the Hessian. It costs about two gradients and needs the loss as a
    function, for which a part of the batch is enough: `opt.apply(grads, model,
    value_fn=lambda model: loss(model, batch))`. [`eqxopt.make_step`][] and
    [`eqxopt.fit`][] pass it. Random keys come from `seed`.

    This is optax's rule. The paper's rule estimates the curvature before it steps, with
    $h_t$ in place of $h_{t-1}$. It does not correct the bias of $m_t$, and it draws $z$
    from the normal distribution. Here the first step is made before there is any
    curvature: it is $\alpha\rho$ against the signs of the gradient. A parameter without
    gradient counts as a constant. For a complex parameter $|z| = 1$, and $h$ estimates
    the mean curvature of its real and imaginary parts.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the momentum, in [0, 1). Default 0.965.
    - `b2`: $\beta_2$, the decay of the curvature, in [0, 1). Default 0.99.
    - `eps`: $\varepsilon$, in (0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 1e-4.
    - `weight_decay_mask`: a [selector][selectors] of those that decay. Default: all.
    - `gamma`: $\gamma$, in [0, inf). Tune it until 10% to 50% of all entries are not
        clipped. Default 0.01.
    - `clip_threshold`: $\rho$, in (0, inf), or `None` for no clipping. Default 1.
    - `update_interval`: $k$, in [1, inf). Default 10.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `seed`: an integer or a random key. Default 0. Keyword only.

    **Raises:** a `ValueError` if `apply` is not given `value_fn`.

    **Source:** Liu et al., [Sophia: A Scalable Stochastic Second-order Optimizer for
    Language Model Pre-training](https://arxiv.org/abs/2305.14342), 2023: Sophia-H.
    """

    uses_value_fn = True

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.965)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.99)
    eps: Hyperparameter = hyperparameter("(0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    weight_decay_mask: OptionalMask = mask_of("weight_decay", default=None)
    gamma: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    clip_threshold: OptionalHyperparameter = hyperparameter("(0, inf)", default=1.0)
    update_interval: int = integer("[1, inf)", default=10)
    mu_dtype: DType = dtype_option(default=None)
    seed: Key = key_field(default=0, kw_only=True)

    def start(self, parameters: Parameters) -> Self:
        zeros = lambda param: Curvature(
            mu=zeros_like(param, self.mu_dtype), hessian=real_zeros_like(param)
        )
        states = [placed_with(param, zeros(param)) for param in parameters.arrays]
        new = begun(self, parameters)
        return replace_fields(new, kept=kept_alone(parameters, states))

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters, count = step.parameters, count_of(self)
        loss = needed_value_fn(self, step.value_fn)
        states = states_of(self, step)
        every_rule = rules(self, parameters)
        updates: Leaves = [None] * len(parameters)
        means: dict[int, AnyLeaf] = {}
        for i, (grad, param) in enumerate(zip(step.grads, parameters.arrays)):
            if grad is not None:
                rule, state = every_rule[i], states[i]
                updates[i], means[i] = _step(rule, plus_one(count), grad, param, state)

        def new_hessians(hessians: dict[int, AnyLeaf]) -> list[AnyLeaf]:
            key = jax.random.fold_in(jax.random.wrap_key_data(self.seed), count)
            active = parameters.only([grad is not None for grad in step.grads])
            return [
                _next_hessian(hessians[i], diagonal, every_rule[i].b2)
                for i, diagonal in zip(means, _hessian_diagonals(loss, active, key))
            ]

        hessians = cond(
            count % self.update_interval == 0,
            new_hessians,
            lambda hessians: list(hessians.values()),
            {i: states[i].hessian for i in means},
        )
        for i, hessian in zip(means, hessians):
            states[i] = Curvature(means[i], hessian)
        kept = kept_alone(parameters, states)
        return updates, replace_fields(self, count=plus_one(count), kept=kept)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays


@once_per_shape
def _step(
    rule: Sophia, count: Int[Array, ""], grad: Leaf, param: Leaf, state: Curvature
) -> tuple[Leaf, Leaf]:
    """The update, and the next running mean of the gradient."""
    dtype = compute_dtype(param.dtype)
    t = count.astype(real_dtype(dtype))
    mu = ema(widen(state.mu, dtype), grad.astype(dtype), rule.b1)
    direction = debias(mu, rule.b1, t) / jnp.maximum(
        rule.gamma * state.hessian, rule.eps
    )
    if rule.clip_threshold is not None:
        direction = clipped(direction, rule.clip_threshold)
    step = direction + rule.weight_decay * param.astype(dtype)
    return -rule.learning_rate * step, mu.astype(state.mu.dtype)


def _hessian_diagonals(
    loss: Callable[[Any], Scalar], parameters: Parameters, key: PRNGKeyArray
) -> list[AnyLeaf]:
    """An estimate of the diagonal of the Hessian of the loss in these parameters."""
    gradient = jax.grad(lambda arrays: loss(parameters.model(arrays)))
    signs = _random_signs(key, parameters.arrays)
    _, products = jax.jvp(gradient, (parameters.arrays,), (signs,))
    return [(z * product).real for z, product in zip(signs, products)]


def _random_signs(key: PRNGKeyArray, arrays: Sequence[AnyLeaf]) -> list[AnyLeaf]:
    """For each array, one with independent entries of magnitude 1 and mean 0."""
    # Draw all arrays of one shape together: each call of a generator takes long to
    # compile.
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(arrays):
        groups.setdefault((x.shape, x.dtype), []).append(i)
    signs = list(arrays)
    for number, ((shape, dtype), members) in enumerate(groups.items()):
        group_key = jax.random.fold_in(key, number)
        group = _random_units(group_key, (len(members), *shape), dtype)
        for k, i in enumerate(members):
            signs[i] = tied(group[k], arrays[i])
    return signs


def _random_units(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype
) -> AnyLeaf:
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.random.rademacher(key, shape, dtype)
    real, imaginary = jax.random.rademacher(key, (2, *shape), real_dtype(dtype))
    return jax.lax.complex(real, imaginary) * 0.5**0.5


@once_per_shape
def _next_hessian(hessian: RealLeaf, diagonal: RealLeaf, decay: Scalar) -> RealLeaf:
    return ema(hessian, diagonal.astype(hessian.dtype), decay)
