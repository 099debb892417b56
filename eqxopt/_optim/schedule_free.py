"""Schedule-free SGD and AdamW."""

from typing import NamedTuple

from .._abstract.averages import averages, first_iterates, Iterates, next_iterates
from .._abstract.leafwise import AbstractLeafwiseTransform
from .._abstract.optimizer import AbstractOptimizer
from .._dtype import real_zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import abs_sq, debias, divide, ema, ramp, sqrt, squarable
from .._tree import Parameters
from .._types import AnyLeaf, Leaf, Scalar, SecondMoment


class IteratesAndSquares(NamedTuple):
    """The iterates of a parameter, and the running mean of its squared gradients."""

    iterates: Iterates
    nu: SecondMoment


class ScheduleFreeSGD(AbstractLeafwiseTransform, AbstractOptimizer):
    r"""Gradient descent with an average of the weights, which replaces both momentum
    and a decay of the learning rate.

    $$
    \begin{aligned}
    z_t &= z_{t-1} - \alpha_t \min(1, (t - 1) / w)\, (g_t + \lambda y_{t-1}) \\
    c_t &= \gamma_t^p / \textstyle\sum_{i \le t} \gamma_i^p, \qquad
        \gamma_t = \max_{i \le t} \alpha_i \min(1, i / w) \\
    x_t &= (1 - c_t)\, x_{t-1} + c_t z_t \\
    y_t &= \beta_1 x_t + (1 - \beta_1)\, z_t
    \end{aligned}
    $$

    The model holds $y_t$, where gradients are computed. The result of training is the
    average $x_t$: evaluate, and in the end use, `opt.eval_params(model)`. If the model
    gathers statistics, as in batch normalization, gather them again at $x_t$.

    This is optax's rule. With a warm-up, its first step has the rate 0; in the authors'
    code that rate is $\alpha_1 / w$. In the paper $\gamma_t$ is the rate of each step,
    not the largest rate so far. [`eqxopt.ScheduleFree`][] is for any optimizer.

    **Arguments:** `mask` is keyword only.

    - `learning_rate`: $\alpha$, in [0, inf). Default 1. Use no decay.
    - `warmup_steps`: $w$, the length of a linear warm-up, in [0, inf). Default 0.
    - `b1`: $\beta_1$, in (0, 1). Default 0.9. For long training try 0.95 and 0.98.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `weight_lr_power`: $p$, in [0, inf). With 0 all steps weigh the same. Default 2.
    - `state_dtype`: the dtype in which $z$ is kept ([dtypes][dtypes]).
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Defazio et al., [The Road Less
    Scheduled](https://arxiv.org/abs/2405.15682), 2024.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.ScheduleFreeSGD(0.5).init(params)
        >>> for _ in range(2):
        ...     params, opt = opt.apply(params, params)
        >>> print(f"{params:.4f} {opt.eval_params(params):.4f}")
        0.3625 0.3750

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    warmup_steps: Hyperparameter = hyperparameter("[0, inf)", default=0)
    b1: Hyperparameter = hyperparameter("(0, 1)", default=0.9)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_lr_power: Hyperparameter = hyperparameter("[0, inf)", default=2.0)
    state_dtype: DType = dtype_option(default=None)
    mask: OptionalMask = mask_of("weight_decay", default=None, kw_only=True)

    def init_leaf(self, param: Leaf) -> Iterates:
        return first_iterates(param, self.state_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Iterates
    ) -> tuple[Leaf, Iterates]:
        direction = grad + self.weight_decay * param
        return _step(self, t, direction, param, state)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return averages(self, parameters)


class ScheduleFreeAdamW(AbstractLeafwiseTransform, AbstractOptimizer):
    r"""AdamW with an average of the weights, which replaces both momentum and a decay
    of the learning rate.

    $$
    \begin{aligned}
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2, \qquad
        \hat v_t = v_t / (1 - \beta_2^t) \\
    z_t &= z_{t-1} - \alpha_t \min(1, (t - 1) / w) \left(
        g_t / (\sqrt{\hat v_t} + \varepsilon) + \lambda y_{t-1} \right)
    \end{aligned}
    $$

    The average $x_t$ and $y_t$, which the model holds, follow from $z_t$ as in
    [`eqxopt.ScheduleFreeSGD`][], and so does how to use them. In the paper $\gamma_t$
    is the rate of each step times the bias correction $\sqrt{1 - \beta_2^t}$.

    **Arguments:** `mask` is keyword only.

    - `learning_rate`: $\alpha$, in [0, inf). Default 0.0025. Use no decay. Good rates
        are 1 to 10 times those of AdamW with a schedule.
    - `warmup_steps`: $w$, the length of a linear warm-up, in [0, inf). Default 0.
    - `b1`: $\beta_1$, in (0, 1). Default 0.9. For long training try 0.95 and 0.98.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `weight_lr_power`: $p$, in [0, inf). With 0 all steps weigh the same. Default 2.
    - `state_dtype`: the dtype in which $z$ is kept ([dtypes][dtypes]).
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** that of [`eqxopt.ScheduleFreeSGD`][].
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=0.0025)
    warmup_steps: Hyperparameter = hyperparameter("[0, inf)", default=0)
    b1: Hyperparameter = hyperparameter("(0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_lr_power: Hyperparameter = hyperparameter("[0, inf)", default=2.0)
    state_dtype: DType = dtype_option(default=None)
    mask: OptionalMask = mask_of("weight_decay", default=None, kw_only=True)

    def init_leaf(self, param: Leaf) -> IteratesAndSquares:
        iterates = first_iterates(param, self.state_dtype)
        return IteratesAndSquares(iterates, real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: IteratesAndSquares
    ) -> tuple[Leaf, IteratesAndSquares]:
        grad = squarable(grad)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        scaled = divide(grad, sqrt(debias(nu, self.b2, t)) + self.eps)
        direction = scaled + self.weight_decay * param
        update, iterates = _step(self, t, direction, param, state.iterates)
        return update, IteratesAndSquares(iterates, nu)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return averages(self, parameters)


def _step(
    rule: ScheduleFreeSGD | ScheduleFreeAdamW,
    t: Scalar,
    direction: Leaf,
    param: Leaf,
    iterates: Iterates,
) -> tuple[Leaf, Iterates]:
    """The update and the next iterates, when $z$ takes a step along `-direction`."""
    rate = rule.learning_rate * ramp(t - 1, 0.0, rule.warmup_steps)
    return next_iterates(
        iterates,
        param,
        -rate * direction,
        b1=rule.b1,
        lr=rule.learning_rate * ramp(t, 0.0, rule.warmup_steps),
        weight_lr_power=rule.weight_lr_power,
        dtype=rule.state_dtype,
    )
