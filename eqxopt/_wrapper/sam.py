"""Gradients from where the loss is worst nearby."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    count_of,
    inner,
    needed_value_fn,
)
from .._abstract.rescaling import Gradients, wide_gradients
from .._abstract.rules import rules, started
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype
from .._fields import Hyperparameter, hyperparameter
from .._math import divide, global_norm
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Scalar, Self


M = TypeVar("M")


class SAM(AbstractOptimizer):
    r"""Sharpness-aware minimization: steps by the gradient where the loss is worst
    within a small distance.

    $$
    \begin{aligned}
    \hat\theta_t &= \theta_{t-1} + \rho\, g_t / \|g_t\| \\
    g'_t &= \nabla f(\hat\theta_t)
    \end{aligned}
    $$

    and the wrapped optimizer makes its step from $\theta_{t-1}$ with $g'_t$. With
    `adaptive=True`, which is ASAM, a large entry may move further,

    $$
    \hat\theta_t = \theta_{t-1} + \rho\, |\theta_{t-1}|^2 \odot g_t \,\big/\,
        \| |\theta_{t-1}| \odot g_t \|
    $$

    so that rescaling weights without changing what the model computes changes nothing
    here either. The norm is that of all gradients together; where it is 0,
    $\hat\theta_t = \theta_{t-1}$. Parameters without a gradient stay where they are.

    The second gradient makes a step cost twice as much. `apply` computes it from the
    loss as a function of the model, which [`eqxopt.make_step`][] and [`eqxopt.fit`][]
    pass on: `opt.apply(grads, model, value_fn=lambda model: loss_fn(model, batch))`.

    This belongs outside of all other wrappers, also of
    [`Accumulate`][eqxopt.Accumulate], so that they are given $g'_t$, and each
    micro-batch its own. The shifts are rounded to the parameters' dtype, in which
    bfloat16 may lose them.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `rho`: $\rho \ge 0$. Default 0.05, the paper's; ASAM wants about ten times that.
    - `adaptive`: whether distances are relative to the weights. Default `False`.

    **Raises:** a `ValueError` if `apply` is not given `value_fn`.

    **Source:** Foret et al., [Sharpness-Aware Minimization for Efficiently Improving
    Generalization](https://arxiv.org/abs/2010.01412), 2021; Kwon et al., [ASAM:
    Adaptive Sharpness-Aware Minimization](https://arxiv.org/abs/2102.11600), 2021,
    whose code adds 0.01 to $|\theta|$.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.SAM(eqxopt.SGD(0.1), rho=0.05).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x, value_fn=f)
        >>> print(f"{f(x):.2f}")
        1.42

        ```
    """

    uses_value_fn = True

    optimizer: AbstractOptimizer = inner()
    rho: Hyperparameter = hyperparameter("[0, inf)", default=0.05)
    adaptive: bool = eqx.field(default=False, static=True)

    def init(self, params: PyTree) -> Self:
        return replace_fields(
            started(self, Parameters(params)), optimizer=self.optimizer.init(params)
        )

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self) + 1
        loss = needed_value_fn(self, value_fn)
        parameters = Parameters(params)
        shifted = self._shifted(parameters, wide_gradients(self, grads, parameters))
        updates, optimizer = self.optimizer.update(
            parameters.tree(_gradients_at(loss, parameters, shifted)),
            params,
            value=value,
            value_fn=value_fn,
        )
        return updates, replace_fields(self, optimizer=optimizer, count=count)

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)

    def _shifted(self, parameters: Parameters, grads: Gradients) -> Gradients:
        """Where the second gradients are taken, of the parameters that have one."""
        params = parameters.arrays
        directions = _times_magnitudes(grads, params) if self.adaptive else grads
        norm = global_norm(x for x in directions if x is not None)
        if self.adaptive:
            directions = _times_magnitudes(directions, params)
        return [
            None if x is None else _shift(param, x, rule.rho, norm)
            for rule, param, x in zip(rules(self, parameters), params, directions)
        ]


def _gradients_at(
    loss: Callable[[PyTree], Scalar], parameters: Parameters, shifted: Gradients
) -> Gradients:
    """The gradient at each of the shifted parameters, the others as they are."""
    at = [i for i, x in enumerate(shifted) if x is not None]
    of_shifted = lambda arrays: loss(parameters.exchanged(at, arrays))
    grads = jax.grad(of_shifted)([shifted[i] for i in at])
    # Conjugated, a complex gradient points uphill.
    new = dict(zip(at, map(jnp.conj, grads)))
    return [new.get(i) for i in range(len(parameters))]


def _times_magnitudes(grads: Gradients, params: Sequence[AnyLeaf]) -> Gradients:
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
