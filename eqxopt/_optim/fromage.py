"""Fromage: Frobenius matched gradient descent."""

import jax.numpy as jnp
from jax.lax import rsqrt

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import Hyperparameter, hyperparameter
from .._math import norm, trust_ratio
from .._types import Leaf, Scalar


class Fromage(AbstractLeafwiseOptimizer):
    r"""Fromage: gradient descent by the same relative amount for every parameter.

    $$
    \begin{aligned}
    c_t &= 1 / \sqrt{1 + \alpha_t^2} \\
    \theta_t &= c_t \left( \theta_{t-1} - \alpha_t
        \frac{\max(\|\theta_{t-1}\|, \varepsilon)}{\max(\|g_t\|, \varepsilon)}\, g_t
        \right)
    \end{aligned}
    $$

    The norms are those of one parameter, which stands for the paper's layer. The step
    has $\alpha_t$ times the length of the parameter, and $c_t$ keeps such steps from
    lengthening it: a step at a right angle to the parameter leaves its norm as it was.
    $c_t$ shrinks the parameter also where the gradient is 0. The paper has no
    $\varepsilon$, and none is needed: with $\varepsilon = 0$, the ratio is 1 where one
    of the norms is 0.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). The paper suggests 0.01.
    - `min_norm`: $\varepsilon$, in [0, inf), below which no norm in the ratio falls. A
        parameter that starts at zero moves by $\alpha_t c_t$ times this. Default 1e-6.

    **Source:** Bernstein et al., [On the distance between two neural networks and the
    stability of learning](https://arxiv.org/abs/2002.03432), 2020.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    min_norm: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        rate_sq = jnp.square(self.learning_rate)
        shrink = rsqrt(1 + rate_sq)
        # 1 - shrink, which as a difference loses its digits where the rate is small.
        decay = rate_sq * shrink * shrink / (1 + shrink)
        param_norm = jnp.maximum(norm(param), self.min_norm)
        ratio = trust_ratio(param_norm, jnp.maximum(norm(grad), self.min_norm))
        return -(self.learning_rate * shrink * ratio) * grad - decay * param, ()
