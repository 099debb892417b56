"""Adafactor."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import (
    abs_sq,
    divide,
    ema,
    is_factored,
    mix_factors,
    over_root,
    rms,
    sqrt,
    squarable,
    zero_factors,
)
from .._number import integer
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


# The paper's second epsilon.
MIN_PARAMETER_SCALE = 1e-3


class Factored(NamedTuple):
    """Running means of a parameter's squared gradient along each of its two longest
    axes, and of its steps if there is momentum."""

    row: Float[Array, "*rows"]
    col: Float[Array, "*cols"]
    mu: FirstMoment | None


class Unfactored(NamedTuple):
    """Running means of the squared gradient, and of the steps if there is momentum."""

    nu: SecondMoment
    mu: FirstMoment | None


class Adafactor(AbstractLeafwiseOptimizer):
    r"""Adafactor: RMSProp in the memory of one row and one column, with steps in
    proportion to the parameter. For a matrix of at least `min_dim_size_to_factor` rows
    and columns,

    $$
    \begin{aligned}
    \hat\beta_t &= 1 - (t - t_0)^{-c} \\
    R_t &= \hat\beta_t R_{t-1} +
        (1 - \hat\beta_t) \operatorname{mean}_\text{columns}(|g_t|^2 + \varepsilon) \\
    C_t &= \hat\beta_t C_{t-1} +
        (1 - \hat\beta_t) \operatorname{mean}_\text{rows}(|g_t|^2 + \varepsilon) \\
    x_t &= g_t / \sqrt{R_t C_t / \operatorname{mean}(R_t)} \\
    \hat x_t &= x_t / \max(1, \operatorname{RMS}(x_t) / d) \\
    u_t &= -\alpha_t \max(\operatorname{RMS}(\theta_{t-1}), 10^{-3})\, \hat x_t -
        \lambda \theta_{t-1}
    \end{aligned}
    $$

    An array of more axes is a stack of matrices along its two longest axes. Any other
    parameter keeps the running mean $v_t$ of $|g_t|^2 + \varepsilon$ itself, and
    $x_t = g_t / \sqrt{v_t}$. With `momentum` $\beta_1$, the first term of $u_t$ is
    replaced by its running mean, from 0 and without bias correction.

    The learning rate is relative to the parameter's size, and so far above Adam's.
    Without one, $\alpha = 1$; the paper's own is the schedule
    `lambda step: jnp.minimum(1e-2, (step + 1.0) ** -0.5)`. The decay is not multiplied
    by the learning rate, as in optax.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). Default `None`, no scaling.
    - `min_dim_size_to_factor`: the size from which both axes are factored. Default 128.
    - `decay_rate`: $c$, in [0, inf). Default 0.8.
    - `decay_offset`: $t_0$, in (-inf, inf). Default 0. The step at which fine-tuning
        starts if steps are counted on from an earlier training: up to $t = t_0 + 1$,
        $\hat\beta_t = 0$.
    - `multiply_by_parameter_scale`: whether to scale by the parameter. Default `True`.
    - `clipping_threshold`: $d$, in (0, inf), usually at least 1, or `None`. Default 1.
    - `momentum`: $\beta_1$, in [0, 1). Default `None`, which saves its memory.
    - `dtype_momentum`: the dtype in which the running mean of the steps is kept
        ([dtypes][dtypes]). Default `jnp.float32`, also for float64 parameters.
    - `weight_decay_rate`: $\lambda$, in [0, inf). Default `None`, no decay.
    - `eps`: $\varepsilon$, added to the squares, in [0, inf). Default 1e-30.
    - `factored`: whether to factor at all. Default `True`.
    - `weight_decay_mask`: a [selector][selectors] of those that decay. Default: all.

    **Source:** Shazeer and Stern, [Adafactor: Adaptive Learning Rates with Sublinear
    Memory Cost](https://arxiv.org/abs/1804.04235), 2018, with its $c$, $d$ and
    $\varepsilon$.
    """

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    min_dim_size_to_factor: int = integer("[0, inf)", default=128)
    decay_rate: Hyperparameter = hyperparameter("[0, inf)", default=0.8)
    decay_offset: Hyperparameter = hyperparameter("(-inf, inf)", default=0)
    multiply_by_parameter_scale: bool = eqx.field(default=True, static=True)
    clipping_threshold: OptionalHyperparameter = hyperparameter("(0, inf)", default=1.0)
    momentum: OptionalHyperparameter = hyperparameter("[0, 1)", default=None)
    dtype_momentum: DType = dtype_option(default=jnp.float32)
    weight_decay_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-30)
    factored: bool = eqx.field(default=True, static=True)
    weight_decay_mask: OptionalMask = mask_of("weight_decay_rate", default=None)

    def init_leaf(self, param: Leaf) -> Factored | Unfactored:
        mu = None if self.momentum is None else zeros_like(param, self.dtype_momentum)
        if self.factored and is_factored(param.shape, self.min_dim_size_to_factor):
            return Factored(*zero_factors(param), mu)
        return Unfactored(real_zeros_like(param), mu)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Factored | Unfactored
    ) -> tuple[Leaf, Factored | Unfactored]:
        grad = squarable(grad)
        decay = 1 - jnp.maximum(t - self.decay_offset, 1) ** -self.decay_rate
        square = abs_sq(grad) + self.eps
        if isinstance(state, Factored):
            row, col = mix_factors(state.row, state.col, square, decay)
            x, state = over_root(grad, row, col), Factored(row, col, state.mu)
        else:
            nu = ema(state.nu, square, decay)
            x, state = divide(grad, sqrt(nu)), Unfactored(nu, state.mu)
        if self.clipping_threshold is not None:
            x = x / jnp.maximum(1, rms(x) / self.clipping_threshold)
        if self.learning_rate is not None:
            x = self.learning_rate * x
        if self.multiply_by_parameter_scale:
            x = jnp.maximum(rms(param), MIN_PARAMETER_SCALE) * x
        if self.momentum is not None and state.mu is not None:
            x = ema(state.mu, x, self.momentum)
            state = state._replace(mu=x)
        if self.weight_decay_rate is not None:
            x = x + self.weight_decay_rate * param
        return -x, state
