"""An average in place of a schedule, around any optimizer."""

from .._abstract.averages import average_of, first_iterates, Iterates, next_iterates
from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.wrapper import AbstractWrapper
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    OptionalHyperparameter,
)
from .._types import Leaf, Scalar


class ScheduleFree(AbstractWrapper):
    r"""Schedule-free training: averages the weights instead of lowering the rate.

    $$
    \begin{aligned}
    z_t &= z_{t-1} + u_t \\
    c_t &= \gamma_t^p / \textstyle\sum_{i \le t} \gamma_i^p, \qquad
        \gamma_t = \max_{i \le t} \alpha_i \\
    x_t &= (1 - c_t)\, x_{t-1} + c_t z_t \\
    y_t &= \beta_1 x_t + (1 - \beta_1)\, z_t
    \end{aligned}
    $$

    from $x_0 = y_0 = z_0$. The model holds $y_t$, at which gradients are computed. The
    wrapped optimizer is given these and $y_t$, and makes the step $u_t$. The result of
    training is the average $x_t$: evaluate, and finally use, `opt.eval_params(model)`.
    Gather statistics of the model, as in batch normalization, again at $x_t$.

    The average takes the place of momentum, so the wrapped optimizer should have none.
    Its learning rate $\alpha_t$ should not decay; a warm-up is welcome.
    [`eqxopt.ScheduleFreeSGD`][] and [`eqxopt.ScheduleFreeAdamW`][] are complete. The
    state is $z_t$; $x_t$ is computed from it and the model. Anything else that changes
    the model between steps therefore changes the average, too. In the paper $\gamma_t$
    is the rate $\alpha_t$ itself. Here it is the largest rate so far, as in the
    authors' code and optax, so that no step after a warm-up weighs less. Optax takes
    the rate of the step that follows.

    **Arguments:**

    - `optimizer`: any optimizer, without momentum.
    - `weight_lr`: $\alpha$ for $\gamma_t$ alone, in [0, inf). Default `None`, for the
        wrapped optimizer's learning rate, however deep in other wrappers.
    - `b1`: $\beta_1$, in (0, 1). Default 0.9. For long training try 0.95 and 0.98.
    - `weight_lr_power`: $p$, in [0, inf). With 0 all steps weigh the same. Default 2.
    - `state_dtype`: the dtype in which $z$ is kept ([dtypes][dtypes]).

    **Raises:** without `weight_lr`, `init` raises a `ValueError` if the wrapped
    optimizer has no learning rate, or several.

    **Source:** Defazio et al., [The Road Less
    Scheduled](https://arxiv.org/abs/2405.15682), 2024.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.ScheduleFree(eqxopt.SGD(0.5), b1=0.5).init(params)
        >>> for _ in range(2):
        ...     params, opt = opt.apply(params, params)
        ...     print(params, opt.state.z, opt.eval_params(params))
        0.5 0.5 0.5
        0.3125 0.25 0.375

        ```
    """

    optimizer: AbstractOptimizer = inner()
    weight_lr: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    b1: Hyperparameter = hyperparameter("(0, 1)", default=0.9)
    weight_lr_power: Hyperparameter = hyperparameter("[0, inf)", default=2.0)
    state_dtype: DType = dtype_option(default=None)

    @property
    def needs_inner_rate(self) -> str | None:
        return "give `weight_lr`" if self.weight_lr is None else None

    def init_leaf(self, param: Leaf) -> Iterates:
        return first_iterates(param, self.state_dtype)

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: Iterates
    ) -> tuple[Leaf, Iterates]:
        return next_iterates(
            state,
            param,
            update,
            b1=self.b1,
            lr=self.inner_rate if self.weight_lr is None else self.weight_lr,
            weight_lr_power=self.weight_lr_power,
            dtype=self.state_dtype,
        )

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: Iterates) -> Leaf:
        return average_of(state, param)
