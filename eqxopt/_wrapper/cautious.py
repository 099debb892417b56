"""Updates only where the gradient agrees."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._abstract.optimizer import AbstractOptimizer, as_optimizer, count_of
from .._abstract.rules import gradients, rules, started
from .._compile.once import per_leaf
from .._fields.hyperparameter import Hyperparameter, positive
from .._math.small import agreement, no_update
from .._tree import Parameters, replace_fields
from .._types import Leaf, Scalar, Self


M = TypeVar("M")


class Cautious(AbstractOptimizer):
    r"""Cautious updates: moves only the entries whose update still goes downhill.

    $$
    m_t = [-u_t \odot g_t > 0], \qquad
    u'_t = \frac{m_t \odot u_t}{\max(\bar m_t, \varepsilon)}
    $$

    Momentum may point against the newest gradient. Where it does, the entry stays,
    and the others move further by the share of entries that stay, the mean $\bar m_t$
    being that over one parameter. Entries whose gradient is 0 stay as well.

    Everything in the update is masked, also a weight decay. In the paper it is not; for
    that put it outside: `DecoupledWeightDecay(Cautious(Adam(1e-3)), 0.1)`. The paper's
    algorithm divides by $(n \bar m_t + 1) / n$ for a parameter of $n$ entries; the
    floor $\varepsilon$ instead is that of timm, and differs for small parameters only.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `eps`: $\varepsilon > 0$, the least mean to divide by. Default 1e-3.

    **Source:** Liang et al., [Cautious Optimizers: Improving Training with One Line of
    Code](https://arxiv.org/abs/2411.16085), 2024.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array([1.0, 1.0])
        >>> opt = eqxopt.Cautious(eqxopt.SGD(0.1, momentum=0.9)).init(params)
        >>> for grads in [jnp.array([1.0, 1.0]), jnp.array([1.0, -0.5])]:
        ...     params, opt = opt.apply(grads, params)
        ...     print(params.round(2))
        [0.9 0.9]
        [0.52 0.9 ]

        ```
    """

    optimizer: AbstractOptimizer = eqx.field(converter=as_optimizer)
    eps: Hyperparameter = eqx.field(converter=positive, default=1e-3)

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
        parameters = Parameters(params)
        grad_leaves = gradients(self, grads, parameters)
        inner_updates, optimizer = self.optimizer.update(
            grads, params, value=value, value_fn=value_fn
        )
        updates = parameters.align(inner_updates, "the updates")
        for i, rule in enumerate(rules(self, parameters)):
            update, grad = updates[i], grad_leaves[i]
            if update is not None and grad is not None:
                updates[i] = _masked(update, grad, rule.eps)
        return parameters.tree(updates), replace_fields(
            self, optimizer=optimizer, count=count
        )

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


@per_leaf
def _masked(
    update: Leaf,
    grad: Leaf,
    eps: Scalar,
) -> Leaf:
    # Stated by what is left out, so that a NaN is passed on and not hidden.
    uphill = agreement(update, grad.astype(update.dtype)) >= 0
    kept = jnp.sum(~uphill).astype(eps.dtype) / max(update.size, 1)
    return jnp.where(uphill, no_update(update), update / jnp.maximum(kept, eps))
