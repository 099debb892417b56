"""COCOB: continuous coin betting."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._math import divide, own_copy, squarable
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

    entry by entry. Each entry has a purse, which starts with $L_t$, and stakes a share
    of it on each gradient's sign; the parameter is what is staked. Complex gradients
    bet in the plane: $|g|$ is their magnitude and the product in $R_t$ the real part of
    $\bar g'_t (\theta_{t-1} - \theta_0)$.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf), which multiplies the gradients. Default 1.
        Any other constant changes nothing but what $\varepsilon$ is compared with; a
        schedule gives gradients their weights.
    - `alpha`: $a$, in [0, inf), for how many steps stakes are held small. Default 100.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8. With 0, entries whose gradients
        were all 0 stay as well.
    - `weight_decay`: $\lambda$, in [0, inf), which is part of the gradient. Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Orabona and Tommasi, [Training Deep Networks without Learning Rates
    Through Coin Betting](https://arxiv.org/abs/1705.07795), 2017, Algorithm 2, which
    has neither $\varepsilon$, $\alpha$ nor decay.
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
        grad = squarable(self.learning_rate * (grad + self.weight_decay * param))
        scale = jnp.maximum(state.scale, jnp.abs(grad))
        magnitudes = state.magnitudes + jnp.abs(grad)
        outcomes = state.outcomes - grad
        gain = -(jnp.conj(grad) * (param - state.start)).real
        # max(reward + gain, 0), in a form that XLA does not compute twice.
        reward = jnp.maximum(state.reward, -gain) + gain
        # Divided by the scale once in each factor, because its square may underflow.
        share = divide(outcomes, jnp.maximum(magnitudes + scale, self.alpha * scale))
        purse = 1 + divide(reward, scale)
        new = Bets(state.start, outcomes, scale, magnitudes, reward)
        return state.start + share * purse - param, new
