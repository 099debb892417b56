"""LARS: momentum with a learning rate for each parameter."""

from typing import NamedTuple

import equinox as eqx

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._math import norm, squarable, trust_ratio
from .._types import FirstMoment, Leaf, Scalar


class Velocity(NamedTuple):
    """A decaying sum of a parameter's steps."""

    velocity: FirstMoment


class LARS(AbstractLeafwiseOptimizer):
    r"""LARS: SGD with momentum whose learning rate for each parameter is in proportion
    to the parameter's norm over its gradient's.

    $$
    \begin{aligned}
    d_t &= g_t + \lambda \theta_{t-1} \\
    r_t &= \eta\, \|\theta_{t-1}\| / (\|d_t\| + \varepsilon) \\
    x_t &= \alpha_t r_t d_t \\
    v_t &= x_t + \mu v_{t-1} \\
    u_t &= \begin{cases}
        -(x_t + \mu v_t) & \text{Nesterov} \\
        -v_t & \text{otherwise}
    \end{cases}
    \end{aligned}
    $$

    The norms are those of one parameter, which stands for the paper's layer. Where one
    of them is 0, and where `trust_ratio_mask` is `False`, $r_t$ is 1. The denominator
    is the norm of the sum $g_t + \lambda \theta_{t-1}$, as in optax; the paper has the
    sum of the norms, $\|g_t\| + \lambda \|\theta_{t-1}\|$, and no $\varepsilon$. As in
    the paper, the momentum runs over scaled steps, so that a schedule acts on new steps
    alone.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `weight_decay_mask`: a [selector][selectors] of those that decay. Default: all.
    - `trust_coefficient`: $\eta$, in [0, inf). Default 0.001.
    - `eps`: $\varepsilon$, in [0, inf). Default 0.
    - `trust_ratio_mask`: which parameters have their steps scaled by $r_t$, a
        [selector][selectors]. Default: all; biases and the parameters of normalization
        layers are usually left out.
    - `momentum`: $\mu$, in [0, 1). Default 0.9.
    - `nesterov`: whether to look ahead along the momentum. Default `False`.

    **Source:** You, Gitman and Ginsburg, [Large Batch Training of Convolutional
    Networks](https://arxiv.org/abs/1708.03888), 2017.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_decay_mask: OptionalMask = mask_of("weight_decay", default=True)
    trust_coefficient: Hyperparameter = hyperparameter("[0, inf)", default=0.001)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    trust_ratio_mask: OptionalMask = mask_of(default=True)
    momentum: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    nesterov: bool = eqx.field(default=False, static=True)

    def init_leaf(self, param: Leaf) -> Velocity:
        return Velocity(zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Velocity
    ) -> tuple[Leaf, Velocity]:
        direction = squarable(grad + self.weight_decay * param)
        rate = self.learning_rate
        if self.trust_ratio_mask in (True, None):
            norms = norm(param), norm(direction)
            rate = rate * trust_ratio(*norms, self.trust_coefficient, self.eps)
        x = rate * direction
        velocity = x + self.momentum * state.velocity
        update = -(x + self.momentum * velocity) if self.nesterov else -velocity
        return update, Velocity(velocity)
