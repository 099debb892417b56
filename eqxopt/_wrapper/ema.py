"""Averages of the weights."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.wrapper import AbstractWrapper
from .._dtype import compute_dtype, real_dtype
from .._fields import Hyperparameter, hyperparameter
from .._math import ema, lerp, own_copy
from .._types import Leaf, Scalar


class Average(NamedTuple):
    """The average of a parameter, and with bias correction its total weight."""

    mean: Leaf
    weight: Scalar | None


class EMA(AbstractWrapper):
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
    usual average that starts from zeros, with its bias corrected, and the first average
    is $\theta_1$. With `debias=False`, $w_t = 1$: the average starts from the initial
    weights, which keep the weight $\beta^t$, as in PyTorch and timm. Averages are kept
    in at least float32. The weights that are averaged are those that the updates of
    this optimizer lead to. So put `EMA` outside of wrappers that change updates, and
    inside of [`Accumulate`][eqxopt.Accumulate], where it counts updates and not
    micro-batches.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `decay`: $\beta$, in [0, 1). It averages about the last $1 / (1 - \beta)$ weights.
    - `debias`: whether to correct the bias. Default `True`.

    **Source:** Polyak and Juditsky, [Acceleration of Stochastic Approximation by
    Averaging](https://doi.org/10.1137/0330046), 1992; Kingma and Ba, [Adam: A Method
    for Stochastic Optimization](https://arxiv.org/abs/1412.6980), 2014, Section 7.2.

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

    passes_gradients: ClassVar[bool] = True

    optimizer: AbstractOptimizer = inner()
    decay: Hyperparameter = hyperparameter("[0, 1)")
    debias: bool = eqx.field(default=True, static=True)

    def init_leaf(self, param: Leaf) -> Average:
        dtype = real_dtype(compute_dtype(param.dtype))
        return Average(own_copy(param), jnp.zeros((), dtype) if self.debias else None)

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: Average
    ) -> tuple[Leaf, Average]:
        # Rounded as in the model: in bfloat16 the weights differ from `param + update`.
        new = (param + update).astype(self.param_dtype).astype(param.dtype)
        if state.weight is None:
            return update, Average(lerp(state.mean, new, 1 - self.decay), None)
        # Accumulate the weight as the mean is accumulated: then the first factor is
        # exactly 1, which 1 - decay**t does not give for a decay near 1.
        weight = ema(state.weight, jnp.ones_like(state.weight), self.decay)
        factor = (1 - self.decay) / weight
        return update, Average(lerp(state.mean, new, factor), weight)

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: Average) -> Leaf:
        return state.mean
