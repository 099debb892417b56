"""Updates only where the gradient agrees."""

import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.wrapper import AbstractWrapper
from .._fields import Hyperparameter, hyperparameter
from .._math import agreement, no_update
from .._types import Leaf, Scalar


class Cautious(AbstractWrapper):
    r"""Cautious updates: moves only the entries whose update goes downhill.

    $$
    m_t = [-u_t \odot g_t > 0], \qquad
    u'_t = \frac{m_t \odot u_t}{\max(\bar m_t, \varepsilon)}
    $$

    Momentum may point against the newest gradient. Entries where it does stay as they
    are, as do entries whose gradient is 0. The others move further to make up for
    them: $\bar m_t$, the mean of $m_t$ over one parameter, is the share that moves.

    The whole update is masked, a weight decay included. The paper does not mask the
    decay; for that put it outside: `DecoupledWeightDecay(Cautious(Adam(1e-3)), 0.1)`.
    The paper's algorithm divides by $(n \bar m_t + 1) / n$ for a parameter of $n$
    entries. The floor $\varepsilon$ is timm's, and differs for small parameters only.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `eps`: $\varepsilon$, in (0, inf), the least mean to divide by. Default 1e-3.

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

    optimizer: AbstractOptimizer = inner()
    eps: Hyperparameter = hyperparameter("(0, inf)", default=1e-3)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        # A comparison with NaN is False: stated as what stays, a NaN passes through.
        uphill = agreement(update, grad) >= 0
        kept = jnp.sum(~uphill).astype(t.dtype) / max(update.size, 1)
        scaled = update / jnp.maximum(kept, self.eps)
        return jnp.where(uphill, no_update(update), scaled), ()

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: tuple[()]) -> Leaf:
        return evaluated
