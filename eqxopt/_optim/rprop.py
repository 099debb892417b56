"""Rprop."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._types import Leaf, RealLeaf, Scalar


class StepSizes(NamedTuple):
    """The length of each entry's step, and its last step with its sign, which is 0
    before the first and after a turn."""

    step_size: RealLeaf
    step: RealLeaf


class Rprop(AbstractLeafwiseOptimizer):
    r"""Steps that grow while the gradient keeps its sign and shrink when it turns,
    whatever the gradient's size.

    With $s_t = \operatorname{sign}(g_t)$ and $c_t = s_t\, \tilde s_{t-1}$,

    $$
    \begin{aligned}
    \eta_t &= \begin{cases}
        \operatorname{clip}(\eta^+ \eta_{t-1}, \eta_\min, \eta_\max) & c_t > 0 \\
        \operatorname{clip}(\eta^- \eta_{t-1}, \eta_\min, \eta_\max) & c_t < 0 \\
        \eta_{t-1} & c_t = 0
    \end{cases} \\
    \tilde s_t &= \begin{cases} 0 & c_t < 0 \\ s_t & \text{else} \end{cases} \\
    u_t &= \begin{cases}
        -\eta_t\, \tilde s_t & \text{not delayed} \\
        -\eta_{t-1}\, \tilde s_{t-1} & \text{delayed and } c_t \ge 0 \\
        0 & \text{delayed and } c_t < 0
    \end{cases}
    \end{aligned}
    $$

    with $\eta_0$ = `learning_rate` and $\tilde s_0 = 0$. With `delayed=False` this is
    iRprop⁻ of Igel and Hüsken, as in PyTorch: after a turn an entry rests for one step,
    without taking its last step back. With `delayed=True`, the default, it is optax,
    which up to 0.2.8 takes each step one update late, and none in the first. Rprop is
    meant for gradients of the whole data set. The signs of small batches turn by
    chance, and the steps then shrink to nothing. `init` reads the learning rate, a
    schedule at step 0; a later change has no effect.

    **Arguments:**

    - `learning_rate`: $\eta_0$, the first step's length, in [0, inf). With 0 nothing
        ever moves, as in optax.
    - `eta_minus`: $\eta^-$, in [0, 1). Default 0.5.
    - `eta_plus`: $\eta^+$, in (0, inf), usually above 1. Default 1.2.
    - `min_step_size`: $\eta_\min$, in [0, inf). Default 1e-6.
    - `max_step_size`: $\eta_\max$, in (0, inf). Default 50.
    - `delayed`: whether to take each step one update late. Default `True`, for optax's
        numbers; otherwise prefer `False`. Keyword only.

    **Raises:** a `TypeError` by `init` for a complex parameter, which has no sign.

    **Source:** Riedmiller and Braun, [A direct adaptive method for faster
    backpropagation learning: the RPROP
    algorithm](https://ieeexplore.ieee.org/document/298623), 1993, with its defaults;
    Igel and Hüsken, [Empirical evaluation of the improved Rprop learning
    algorithms](https://doi.org/10.1016/S0925-2312(01)00700-7), 2003.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    eta_minus: Hyperparameter = hyperparameter("[0, 1)", default=0.5)
    eta_plus: Hyperparameter = hyperparameter("(0, inf)", default=1.2)
    min_step_size: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    max_step_size: Hyperparameter = hyperparameter("(0, inf)", default=50.0)
    delayed: bool = eqx.field(default=True, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> StepSizes:
        if jnp.iscomplexobj(param):
            raise TypeError(
                f"`Rprop` goes by the sign of the gradient, and a complex parameter "
                f"({param.dtype}) has none: keep its real and imaginary part as two "
                "parameters, or use another optimizer for it"
            )
        zeros = real_zeros_like(param)
        return StepSizes(step_size=zeros + self.learning_rate, step=zeros)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: StepSizes
    ) -> tuple[Leaf, StepSizes]:
        # Scaled, because a product of small numbers could underflow to 0.
        c = -(2.0**64 * state.step) * grad
        factor = jnp.where(c > 0, self.eta_plus, self.eta_minus)
        changed = factor * state.step_size
        changed = jnp.clip(changed, self.min_step_size, self.max_step_size)
        step_size = jnp.where(c == 0, state.step_size, changed)
        step = jnp.where(c < 0, 0, -step_size * jnp.sign(grad))
        update = jnp.where(c < 0, 0, state.step) if self.delayed else step
        return update, StepSizes(step_size, step)
