"""SGD and AdamW without a schedule of the learning rate."""

from typing import NamedTuple, TypeVar

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
from .._math import abs_sq, debias, divide, ema, ramp, sqrt
from .._tree import Parameters
from .._types import AnyLeaf, Leaf, RealLeaf, Scalar


M = TypeVar("M")


class IteratesAndSquares(NamedTuple):
    """The iterates of a parameter, and the running mean of its squared gradient."""

    iterates: Iterates
    nu: RealLeaf


class ScheduleFreeSGD(AbstractLeafwiseTransform, AbstractOptimizer):
    r"""Gradient descent with an average in place of both momentum and the decay of the
    learning rate.

    $$
    \begin{aligned}
    z_t &= z_{t-1} - \alpha_t \min(1, (t - 1) / w)\, (g_t + \lambda y_{t-1}) \\
    c_t &= \gamma_t^p / \textstyle\sum_{i \le t} \gamma_i^p, \qquad
        \gamma_t = \max_{i \le t} \alpha_i \min(1, i / w) \\
    x_t &= (1 - c_t)\, x_{t-1} + c_t z_t \\
    y_t &= \beta_1 x_t + (1 - \beta_1)\, z_t
    \end{aligned}
    $$

    The model holds $y_t$, at which gradients are computed. What has been learned is the
    average $x_t$: evaluate, and at last use, `opt.eval_params(model)`. Statistics that
    a model gathers, as in batch normalization, have to be gathered anew at $x_t$.

    This is optax's rule, whose first step has the rate 0 where there is a warm-up. The
    authors' code makes it with $\alpha_1 / w$. In the paper the rates are weighed as
    they are, and not the largest so far. [`eqxopt.ScheduleFree`][] does the same
    around any optimizer.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$. Default 1. It wants no decay.
    - `warmup_steps`: $w \ge 0$, the length of a linear warm-up. Default 0, for none.
    - `b1`: $\beta_1 \in (0, 1)$. Default 0.9. For long training 0.95 and 0.98 are
        worth a try.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `weight_lr_power`: $p \ge 0$; with 0 all steps weigh the same. Default 2.
    - `state_dtype`: the dtype in which $z$ is kept. By default that of the parameter,
        and at least float32.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do. Keyword only.

    **Source:** Defazio et al., [The Road Less
    Scheduled](https://arxiv.org/abs/2405.15682), 2024.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.ScheduleFreeSGD(learning_rate=0.3).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(opt.eval_params(x)):.2f}")
        0.05

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
    r"""AdamW with an average in place of both momentum and the decay of the learning
    rate.

    $$
    \begin{aligned}
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2, \qquad
        \hat v_t = v_t / (1 - \beta_2^t) \\
    z_t &= z_{t-1} - \alpha_t \min(1, (t - 1) / w) \left(
        g_t / (\sqrt{\hat v_t} + \varepsilon) + \lambda y_{t-1} \right) \\
    c_t &= \gamma_t^p / \textstyle\sum_{i \le t} \gamma_i^p, \qquad
        \gamma_t = \max_{i \le t} \alpha_i \min(1, i / w) \\
    x_t &= (1 - c_t)\, x_{t-1} + c_t z_t \\
    y_t &= \beta_1 x_t + (1 - \beta_1)\, z_t
    \end{aligned}
    $$

    The model holds $y_t$, at which gradients are computed. What has been learned is the
    average $x_t$: evaluate, and at last use, `opt.eval_params(model)`. Statistics that
    a model gathers, as in batch normalization, have to be gathered anew at $x_t$.

    This is optax's rule, whose first step has the rate 0 where there is a warm-up. The
    authors' code makes it with $\alpha_1 / w$. In the paper $\gamma_t$ is the rate of
    each step, with the bias correction $\sqrt{1 - \beta_2^t}$ in it.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$. Default 0.0025. It wants no decay, and may be 1
        to 10 times as large as that of AdamW with a schedule.
    - `warmup_steps`: $w \ge 0$, the length of a linear warm-up. Default 0, for none.
    - `b1`: $\beta_1 \in (0, 1)$. Default 0.9. For long training 0.95 and 0.98 are
        worth a try.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment. Default 0.999.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `weight_lr_power`: $p \ge 0$; with 0 all steps weigh the same. Default 2.
    - `state_dtype`: the dtype in which $z$ is kept. By default that of the parameter,
        and at least float32.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do. Keyword only.

    **Source:** Defazio et al., [The Road Less
    Scheduled](https://arxiv.org/abs/2405.15682), 2024.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.ScheduleFreeAdamW(learning_rate=1.0).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(opt.eval_params(x)):.2f}")
        0.41

        ```
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
    """One step of $z$ along `-direction`, and what follows from it."""
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
