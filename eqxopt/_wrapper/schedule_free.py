"""An average in place of a schedule, around any optimizer."""

from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import PyTree

from .._abstract.averages import averages, first_iterates, Iterates, next_iterates
from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._abstract.rules import gradients, rules, started, states_of
from .._compile.once import once_per_shape
from .._dtype import widen
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    OptionalHyperparameter,
)
from .._tree import Parameters, replace_fields
from .._types import Leaf, Scalar, Self
from ._learning_rate import learning_rates


M = TypeVar("M")


class ScheduleFree(AbstractOptimizer):
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

    from $x_0 = y_0 = z_0$. The model holds $y_t$, at which gradients are computed, and
    with which the wrapped optimizer makes the step $u_t$. What has been learned is the
    average $x_t$: evaluate, and at last use, `opt.eval_params(model)`. Statistics that
    a model gathers, as in batch normalization, have to be gathered anew at $x_t$.

    The average takes the place of momentum, so the wrapped optimizer should have none,
    and its learning rate $\alpha_t$ should not decay; a warm-up is welcome.
    [`eqxopt.ScheduleFreeSGD`][] and [`eqxopt.ScheduleFreeAdamW`][] are complete.

    Only $z_t$ is kept beside the model, and $x_t$ is computed from the two. What else
    changes the model between steps therefore changes the average too.

    In the paper $\gamma_t$ is the rate $\alpha_t$ itself. That the largest rate so far
    takes its place, so that no step after a warm-up weighs less, is as in the authors'
    code and optax; optax takes the rate of the step that follows.

    **Arguments:**

    - `optimizer`: any optimizer, without momentum.
    - `weight_lr`: $\alpha \ge 0$, if it is not to be the wrapped optimizer's learning
        rate, however deep in other wrappers. Nothing else depends on it. Default
        `None`.
    - `b1`: $\beta_1 \in (0, 1)$. Default 0.9. For long training 0.95 and 0.98 are
        worth a try.
    - `weight_lr_power`: $p \ge 0$; with 0 all steps weigh the same. Default 2.
    - `state_dtype`: the dtype in which $z$ is kept. By default that of the parameter,
        and at least float32.

    **Raises:** without `weight_lr` a `ValueError` if the wrapped optimizer has no
    learning rate, or several.

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

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        new = replace_fields(
            started(self, parameters),
            optimizer=self.optimizer.init(params),
            state=parameters.tree(
                [first_iterates(p, self.state_dtype) for p in parameters.arrays]
            ),
        )
        new._rates(parameters)  # for its error
        return new

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
        states = states_of(self, parameters, grad_leaves)
        rates = self._rates(parameters)
        steps, optimizer = self.optimizer.update(
            grads, params, value=value, value_fn=value_fn
        )
        updates = parameters.align(steps, "the updates")
        for i, rule in enumerate(_rules(self, parameters)):
            if grad_leaves[i] is not None and updates[i] is not None:
                updates[i], states[i] = _next(
                    rule, rates[i], parameters.arrays[i], updates[i], states[i]
                )
        return parameters.tree(updates), replace_fields(
            self, optimizer=optimizer, count=count, state=parameters.tree(states)
        )

    def eval_params(self, params: M) -> M:
        return averages(self, params)

    def _rates(self, parameters: Parameters) -> list[Scalar]:
        """The rate that each parameter's step is weighed with."""
        if self.weight_lr is not None:
            return [rule.weight_lr for rule in _rules(self, parameters)]
        return learning_rates(self, self.optimizer, parameters, "give `weight_lr`")


def _rules(wrapper: ScheduleFree, parameters: Parameters) -> list[Any]:
    # What is wrapped has its own hyperparameters and is no part of the rule.
    return rules(replace_fields(wrapper, optimizer=None), parameters)


@once_per_shape
def _next(
    rule: ScheduleFree, lr: Scalar, param: Leaf, step: Leaf, iterates: Iterates
) -> tuple[Leaf, Iterates]:
    dtype = step.dtype
    update, new = next_iterates(
        iterates._replace(z=widen(iterates.z, dtype)),
        param.astype(dtype),
        step,
        b1=rule.b1,
        lr=lr,
        weight_lr_power=rule.weight_lr_power,
        dtype=rule.state_dtype,
    )
    return update, new._replace(z=new.z.astype(iterates.z.dtype))
