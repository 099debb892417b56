"""Gradients from where the loss is worst nearby."""

from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rescaling import wide_gradients
from .._abstract.rules import begun, rules
from .._abstract.step import needed_value_fn, Step
from .._abstract.transform import count_of
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype
from .._fields import Hyperparameter, hyperparameter
from .._math import divide, global_norm, plus_one
from .._tree import fill, Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Scalar, Self


class SAM(AbstractOptimizer):
    r"""Sharpness-aware minimization: makes steps with the gradient from where the loss
    is worst within a small distance.

    $$
    \begin{aligned}
    \hat\theta_t &= \theta_{t-1} + \rho\, g_t / \|g_t\| \\
    g'_t &= \nabla f(\hat\theta_t)
    \end{aligned}
    $$

    and the wrapped optimizer makes its step from $\theta_{t-1}$ with $g'_t$. With
    `adaptive=True`, which is ASAM, large entries move further,

    $$
    \hat\theta_t = \theta_{t-1} + \rho\, |\theta_{t-1}|^2 \odot g_t \,\big/\,
        \| |\theta_{t-1}| \odot g_t \|
    $$

    so that rescaling weights in a way that the model ignores does not change the step.
    The norm is that of all gradients together. If it is 0, $\hat\theta_t =
    \theta_{t-1}$. Parameters without a gradient are not shifted.

    The second gradient makes a step cost twice as much. It is computed from the loss as
    a function of the model, which [`eqxopt.make_step`][] and [`eqxopt.fit`][] pass on:
    `opt.apply(grads, model, value_fn=lambda model: loss_fn(model, batch))`.

    Put `SAM` outside of all other wrappers, so that they are given $g'_t$; outside of
    [`Accumulate`][eqxopt.Accumulate] each micro-batch has its own. The shifted
    parameters are rounded to their dtype, so bfloat16 may lose a small shift.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `rho`: $\rho$, in [0, inf). Default 0.05, the paper's. ASAM needs about 0.5.
    - `adaptive`: whether distances are relative to the weights. Default `False`.

    **Raises:** a `ValueError` if `apply` is not given `value_fn`.

    **Source:** Foret et al., [Sharpness-Aware Minimization for Efficiently Improving
    Generalization](https://arxiv.org/abs/2010.01412), 2021; Kwon et al., [ASAM:
    Adaptive Sharpness-Aware Minimization](https://arxiv.org/abs/2102.11600), 2021,
    whose code adds 0.01 to $|\theta|$.
    """

    uses_value_fn: ClassVar[bool] = True

    optimizer: AbstractOptimizer = inner()
    rho: Hyperparameter = hyperparameter("[0, inf)", default=0.05)
    adaptive: bool = eqx.field(default=False, static=True)

    def start(self, parameters: Parameters) -> Self:
        optimizer = self.optimizer.start(parameters)
        return replace_fields(begun(self, parameters), optimizer=optimizer)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        grads = self._gradients_at(self._shifted(step), step)
        updates, optimizer = self.optimizer.advance(step.with_grads(grads))
        return updates, replace_fields(self, optimizer=optimizer, count=count)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.optimizer.evaluate(parameters)

    def _shifted(self, step: Step) -> Leaves:
        r"""$\hat\theta_t$, for the parameters with a gradient."""
        params, directions = step.parameters.arrays, wide_gradients(step)
        if self.adaptive:
            directions = _times_magnitudes(directions, params)
        norm = global_norm(x for x in directions if x is not None)
        if self.adaptive:
            directions = _times_magnitudes(directions, params)
        return [
            None if x is None else _shift(param, x, rule.rho, norm)
            for rule, param, x in zip(rules(self, step.parameters), params, directions)
        ]

    def _gradients_at(self, shifted: Leaves, step: Step) -> Leaves:
        """$g'_t$, the gradient by the shifted parameters; the others stay fixed."""
        loss = needed_value_fn(self, step.value_fn)
        moves = [x is not None for x in shifted]
        part = step.parameters.only(moves)
        at = [x for x in shifted if x is not None]
        new = jax.grad(lambda arrays: loss(part.model(arrays)))(at)
        grads: Leaves = [None] * len(shifted)
        # JAX gives the conjugate of what points uphill.
        fill(grads, moves, [jnp.conj(x) for x in new])
        return grads


def _times_magnitudes(grads: Leaves, params: Sequence[AnyLeaf]) -> Leaves:
    return [
        None if grad is None else _times_magnitude(grad, param)
        for grad, param in zip(grads, params)
    ]


@once_per_shape
def _times_magnitude(grad: Leaf, param: Leaf) -> Leaf:
    return jnp.abs(param).astype(real_dtype(grad.dtype)) * grad


@once_per_shape
def _shift(param: Leaf, direction: Leaf, rho: Scalar, norm: Scalar) -> Leaf:
    factor = divide(rho, norm.astype(rho.dtype))
    wide = param.astype(compute_dtype(param.dtype))
    return (wide + factor * direction).astype(param.dtype)
