"""NorMuon: orthogonal momentum of which all rows have one size."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.nested import fallback_of
from .._dtype import compute_dtype, real_dtype, zeros_like
from .._fields import (
    default_matrices,
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    matrices_of,
    MatricesField,
    MatrixView,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import abs_sq, debiased_mean, divide, ema, sqrt, squarable, stable_norm
from .._types import FirstMoment, Leaf, Matrix, Scalar
from ._fallback import Fallback, settle_fallback
from ._newton_schulz import as_newton_schulz, NewtonSchulz, spectral_scale


class MomentumAndRows(NamedTuple):
    """Running means of the gradient, and of squares in each row once orthogonal."""

    mu: FirstMoment
    nu: Float[Array, "batch rows 1"]


class NorMuon(AbstractMatrixOptimizer):
    r"""Muon with a learning rate for every row, that is, for every neuron. Rows that
    were long step less; the whole matrix steps as far as before.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    O_t &= \mathrm{NS}(\hat m_t) \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, \mathrm{mean}_j |O_{t,ij}|^2 \\
    \hat O_t &= O_t / (\sqrt{v_t} + \varepsilon) \\
    u_t &= -\alpha_t \left( s\, \frac{\|O_t\|}{\|\hat O_t\|} \hat O_t + \lambda
        \theta_{t-1} \right), \qquad s = \sqrt{\max(1, n_\text{out} / n_\text{in})}
    \end{aligned}
    $$

    where $v_t$ has one number a row. $\mathrm{NS}$ and $\hat m_t$ are those of
    [`eqxopt.Muon`][]. Keeping the norm $\|O_t\|$ is from the authors' code; the paper
    has `consistent_rms=0.2`. $v_t$ has no bias correction: the norm undoes its bias,
    the same for all rows.

    **Arguments:** keyword only from `matrices` on.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf).
    - `beta`: $\beta$, in [0, 1). Default 0.95.
    - `beta2`: $\beta_2$, in [0, 1). Default 0.95.
    - `eps`: $\varepsilon$, in [0, inf), also in $\mathrm{NS}$. Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.01.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `consistent_rms`: $c$, in [0, inf), for steps whose root mean square is $c$ for
        every shape: $c \sqrt{n_\text{out} n_\text{in}}$ replaces $s \|O_t\|$. Default
        `None`, for $s$.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(0.015 * learning_rate, b2=0.95, weight_decay=0.0)`, with
        `consistent_rms` at the whole learning rate.
    - `nesterov`: whether $\hat m_t$ looks one step ahead. Default `False`.
    - `newton_schulz`: the steps $\mathrm{NS}$, an [`eqxopt.NewtonSchulz`][].
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Li et al., [NorMuon: Making Muon more efficient and
    scalable](https://arxiv.org/abs/2510.05491), 2025. The numbers that are defaults are
    those of [Dion's](https://github.com/microsoft/dion) implementation, which takes the
    Polar Express and $s = \sqrt{n_\text{out} / n_\text{in}}$, also below 1.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    beta2: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    consistent_rms: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)
    newton_schulz: NewtonSchulz = eqx.field(
        converter=as_newton_schulz, default_factory=NewtonSchulz, kw_only=True
    )
    mu_dtype: DType = dtype_option(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self, 0.015 if self.consistent_rms is None else 1.0)

    def init_matrix(self, param: Leaf, view: MatrixView) -> MomentumAndRows:
        real = real_dtype(compute_dtype(param.dtype))
        nu = jnp.zeros((view.batch, view.rows, 1), real)
        return MomentumAndRows(zeros_like(param, self.mu_dtype), nu)

    def accumulate(
        self, t: Scalar, grad: Matrix, state: MomentumAndRows
    ) -> tuple[Matrix, MomentumAndRows]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.beta)
        mu_hat = debiased_mean(mu, grad, self.beta, t, nesterov=self.nesterov)
        return mu_hat, MomentumAndRows(mu, state.nu)

    def precondition(
        self, t: Scalar, x: Matrix, state: MomentumAndRows
    ) -> tuple[Matrix, MomentumAndRows]:
        _, rows, columns = x.shape
        o = self.newton_schulz(x, self.eps)
        squares = jnp.mean(abs_sq(o), axis=-1, keepdims=True)
        nu = ema(state.nu, squares, self.beta2)
        o_hat = divide(o, sqrt(nu) + self.eps)
        if self.consistent_rms is None:
            size = spectral_scale(rows, columns) * stable_norm(o, axes=(-2, -1))
        else:
            size = self.consistent_rms * (rows * columns) ** 0.5
        direction = divide(size, stable_norm(o_hat, axes=(-2, -1))) * o_hat
        return direction, MomentumAndRows(state.mu, nu)

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        return -self.learning_rate * (direction + self.weight_decay * param)
