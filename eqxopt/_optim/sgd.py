"""Stochastic gradient descent."""

from typing import NamedTuple

import equinox as eqx

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    OptionalHyperparameter,
)
from .._types import FirstMoment, Leaf, Scalar


class Trace(NamedTuple):
    """The decaying sum of a parameter's gradients."""

    trace: FirstMoment


class SGD(AbstractLeafwiseOptimizer):
    r"""Stochastic gradient descent, with classical or Nesterov momentum.

    $$
    \begin{aligned}
    m_t &= g_t + \mu\, m_{t-1} \\
    u_t &= \begin{cases}
        -\alpha_t\, m_t & \text{classical} \\
        -\alpha_t\, (g_t + \mu\, m_t) & \text{Nesterov}
    \end{cases}
    \end{aligned}
    $$

    Without momentum, $u_t = -\alpha_t g_t$. The gradient enters $m_t$ undamped, so the
    momentum lengthens the effective step by up to $1 / (1 - \mu)$.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `momentum`: $\mu$, in [0, 1). Default `None`, which keeps no state.
    - `nesterov`: whether to look ahead along the momentum. Default `False`.
    - `accumulator_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).

    **Source:** Sutskever et al., [On the importance of initialization and momentum in
    deep learning](https://proceedings.mlr.press/v28/sutskever13.html), 2013.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    momentum: OptionalHyperparameter = hyperparameter("[0, 1)", default=None)
    nesterov: bool = eqx.field(default=False, static=True)
    accumulator_dtype: DType = dtype_option(default=None)

    def init_leaf(self, param: Leaf) -> Trace | tuple[()]:
        if self.momentum is None:
            return ()
        return Trace(zeros_like(param, self.accumulator_dtype))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Trace | tuple[()]
    ) -> tuple[Leaf, Trace | tuple[()]]:
        momentum = self.momentum
        if momentum is None or not isinstance(state, Trace):
            return -self.learning_rate * grad, state
        trace = grad + momentum * state.trace
        step = grad + momentum * trace if self.nesterov else trace
        return -self.learning_rate * step, Trace(trace)
