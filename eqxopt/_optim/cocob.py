"""COCOB: continuous coin betting."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import divide, own_copy
from .._types import Leaf, RealLeaf, Scalar


class Bets(NamedTuple):
    """Where a parameter was before the first update; and of its gradients, with the
    sign turned, the sum, the largest magnitude, the sum of magnitudes, and what was
    won by betting on them."""

    start: Leaf
    outcomes: Leaf
    scale: RealLeaf
    magnitudes: RealLeaf
    reward: RealLeaf


class COCOB(AbstractLeafwiseOptimizer):
    r"""COCOB-Backprop: bets on the sign of the next gradient, with no learning rate.

    $$
    \begin{aligned}
    g'_t &= \alpha_t (g_t + \lambda \theta_{t-1}) \\
    L_t &= \max(L_{t-1}, |g'_t|), \qquad L_0 = \varepsilon \\
    G_t &= G_{t-1} + |g'_t|, \qquad C_t = C_{t-1} - g'_t \\
    R_t &= \max(0, R_{t-1} - g'_t\, (\theta_{t-1} - \theta_0)) \\
    \theta_t &= \theta_0 + \frac{C_t}{L_t \max(G_t + L_t, a L_t)}\, (L_t + R_t)
    \end{aligned}
    $$

    where all is meant entry by entry. Each entry has a purse, which starts with $L_t$,
    and stakes a share of it on each gradient's sign; the parameter is what is staked.

    Complex gradients bet in the plane: $|g|$ is their magnitude and the product in
    $R_t$ the real part of $\bar g'_t (\theta_{t-1} - \theta_0)$.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, which multiplies the gradients. Default 1. Any
        other constant changes nothing but what $\varepsilon$ is compared with; a
        schedule gives gradients their weights.
    - `alpha`: $a \ge 0$, for about how many steps the stakes are held small.
        Default 100.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8. An entry whose gradients were all 0
        stays also with 0.
    - `weight_decay`: $\lambda \ge 0$, which is part of the gradient. Default 0.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.

    **Source:** Orabona and Tommasi, [Training Deep Networks without Learning Rates
    Through Coin Betting](https://arxiv.org/abs/1705.07795), 2017, Algorithm 2, which
    has neither $\varepsilon$, $\alpha$ nor decay.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.COCOB().init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.35

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    alpha: Hyperparameter = hyperparameter("[0, inf)", default=100.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> Bets:
        return Bets(
            start=own_copy(param),
            outcomes=zeros_like(param),
            scale=real_zeros_like(param) + self.eps,
            magnitudes=real_zeros_like(param),
            reward=real_zeros_like(param),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Bets
    ) -> tuple[Leaf, Bets]:
        grad = self.learning_rate * (grad + self.weight_decay * param)
        magnitude = jnp.abs(grad)
        gain = -(jnp.conj(grad) * (param - state.start)).real
        new = Bets(
            start=state.start,
            outcomes=state.outcomes - grad,
            scale=jnp.maximum(state.scale, magnitude),
            magnitudes=state.magnitudes + magnitude,
            # max(reward + gain, 0), which a compiler would not compute twice.
            reward=jnp.maximum(state.reward, -gain) + gain,
        )
        # One division by the scale at a time, because its square may underflow.
        stake = new.magnitudes + new.scale
        share = divide(new.outcomes, jnp.maximum(stake, self.alpha * new.scale))
        purse = 1 + divide(new.reward, new.scale)
        return state.start + share * purse - param, new
