"""Averages of the weights."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._abstract.optimizer import AbstractOptimizer, add_updates, as_optimizer, count_of
from .._abstract.rules import gradients, rules, started, states_of
from .._compile.once import per_leaf
from .._dtype import compute_dtype, real_dtype
from .._fields.hyperparameter import fraction, Hyperparameter
from .._math.small import ema, own_copy
from .._tree import Parameters, replace_fields
from .._types import Leaf, Scalar, Self


M = TypeVar("M")


class Average(NamedTuple):
    """The average of a parameter, and the weight that it stands for, at most 1; none
    without bias correction."""

    mean: Leaf
    weight: Scalar | None


class EMA(AbstractOptimizer):
    r"""Keeps an exponential moving average of the weights, to evaluate.

    $$
    \begin{aligned}
    w_t &= 1 - \beta_t (1 - w_{t-1}), \qquad w_0 = 0 \\
    \bar\theta_t &= \bar\theta_{t-1} +
        \frac{1 - \beta_t}{w_t} (\theta_t - \bar\theta_{t-1})
    \end{aligned}
    $$

    Training itself stays as it is; `opt.eval_params(model)` gives the model with the
    averages $\bar\theta_t$. With a constant $\beta$, $w_t = 1 - \beta^t$: this is the
    usual average that starts from zeros with its bias corrected, so that the first
    average is $\theta_1$. With `debias=False`, $w_t = 1$: the average starts from the
    initial weights, and these keep the weight $\beta^t$, as in PyTorch and timm.

    Averages are kept in at least float32. What is averaged are the weights as this
    optimizer leaves them, so it belongs outside of wrappers that change updates, and
    inside of [`Accumulate`][eqxopt.Accumulate], where it counts updates and not
    micro-batches.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `decay`: $\beta \in [0, 1)$. About the last $1 / (1 - \beta)$ weights count.
    - `debias`: whether to correct the bias. Default `True`.

    **Source:** Polyak and Juditsky, [Acceleration of Stochastic Approximation by
    Averaging](https://doi.org/10.1137/0330046), 1992; Kingma and Ba, [Adam: A Method
    for Stochastic Optimization](https://arxiv.org/abs/1412.6980), 2014, Section 7.2,
    for this form of it.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.EMA(eqxopt.SGD(0.5), decay=0.5).init(params)
        >>> for _ in range(2):
        ...     params, opt = opt.apply(params, params)
        >>> print(params, f"{opt.eval_params(params):.4f}")
        0.25 0.3333

        ```
    """

    optimizer: AbstractOptimizer = eqx.field(converter=as_optimizer)
    decay: Hyperparameter = eqx.field(converter=fraction)
    debias: bool = eqx.field(default=True, static=True)

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        return replace_fields(
            started(self, parameters),
            optimizer=self.optimizer.init(params),
            state=parameters.tree([self._start(p) for p in parameters.arrays]),
        )

    def _start(self, param: Leaf) -> Average:
        dtype = real_dtype(compute_dtype(param.dtype))
        return Average(own_copy(param), jnp.zeros((), dtype) if self.debias else None)

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
        updates, optimizer = self.optimizer.update(
            grads, params, value=value, value_fn=value_fn
        )
        new = Parameters(add_updates(params, updates)).arrays
        for i, rule in enumerate(rules(self, parameters)):
            if grad_leaves[i] is not None:
                states[i] = _averaged(states[i], new[i], rule.decay)
        return updates, replace_fields(
            self, optimizer=optimizer, count=count, state=parameters.tree(states)
        )

    def eval_params(self, params: M) -> M:
        count_of(self)
        parameters = Parameters(params)
        averages = parameters.align(self.state, "`EMA`: the averages")
        return parameters.tree(
            [
                param
                if average is None
                else average.mean.astype(param.dtype, copy=True)
                for param, average in zip(parameters.arrays, averages)
            ],
            rest=True,
        )


@per_leaf
def _averaged(average: Average, new: Leaf, decay: Scalar) -> Average:
    new = new.astype(average.mean.dtype)
    if average.weight is None:
        return Average(ema(average.mean, new, decay), None)
    # In this form the weight of the first average is the very factor that it is
    # divided by, also where the decay is so near to 1 that 1 - decay**t is not.
    weight = ema(average.weight, jnp.ones_like(average.weight), decay)
    factor = (1 - decay) / weight
    return Average(average.mean + factor * (new - average.mean), weight)
