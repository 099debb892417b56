"""NorMuon: orthogonal momentum of which all rows have one size."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._abstract.together import decayed_step, together
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
    word,
)
from .._math import abs_sq, divide, ema, Momentum, sqrt, stable_norm
from .._number import integer
from .._types import AnyLeaf, Leaf, Matrix
from ._fallback import default_fallback
from ._newton_schulz import as_coefficients, Triple
from ._orthogonal import momentum_matrices, orthogonalized, spectral_scale


class MomentumAndRows(NamedTuple):
    """Running means of a matrix's gradient, and of the squares in each row of what
    was made orthogonal."""

    mu: Leaf
    nu: Float[Array, "batch rows"]


class NorMuon(AbstractMatrixOptimizer):
    r"""Muon with a learning rate for every row, which is a neuron: rows that were made
    long step less, and the whole matrix as far as before.

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

    where $v_t$ has one number a row, and $\mathrm{NS}$ and $\hat m_t$ are those of
    [`eqxopt.Muon`][], as are what a matrix is and its scale $s$. That the norm is kept
    is from the authors' code; the paper's own is `consistent_rms=0.2`. $v_t$ has no
    correction of its bias: it is the same for all rows, and the norm undoes it.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone.
    - `beta`: $\beta \in [0, 1)$. Default 0.95.
    - `beta2`: $\beta_2 \in [0, 1)$. Default 0.95.
    - `ns_coefficients`: $(a, b, c)$, or one such triple for each step, of which the
        last is repeated; or `"standard"`, the default; or `"polar-express"`, which
        brings singular values closer to 1.
    - `ns_steps`: how many steps, at least 1. Default 5.
    - `eps`: $\varepsilon \ge 0$, here and where $\mathrm{NS}$ divides by a norm.
        Default 1e-8.
    - `weight_decay`: $\lambda \ge 0$. Default 0.01.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `consistent_rms`: $c \ge 0$ for steps whose root mean square is $c$ for every
        shape: $c \sqrt{n_\text{out} n_\text{in}}$ in place of $s \|O_t\|$. The paper
        has 0.2. Default `None`, for $s$.
    - `matrices`: keyword only, as all that follow. Which parameters are matrices, as
        in [`eqxopt.Muon`][]: `True` or `"matrix"`, `"stack"`, `False` or `"fallback"`.
    - `fallback`: the optimizer of the other parameters. Default `AdamW(3e-4, b2=0.95,
        weight_decay=0.0)`.
    - `nesterov`: whether to look one step ahead. Default `False`.
    - `method`: how the steps are made, `"gram"`, the default, or `"standard"`.
    - `compute_dtype`: the dtype of the steps. By default that of the parameter, and at
        least float32.
    - `mu_dtype`: the dtype in which $m$ is kept. By default that of the parameter,
        and at least float32.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Li et al., [NorMuon: Making Muon more efficient and
    scalable](https://arxiv.org/abs/2510.05491), 2025, with the defaults of
    [Dion's](https://github.com/microsoft/dion) implementation.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda w: jnp.sum((w - 1) ** 2)
        >>> w = jnp.array([[1.0, 2.0], [3.0, -4.0]])
        >>> opt = eqxopt.NorMuon(learning_rate=0.1).init(w)
        >>> print(opt.state.nu.shape)
        (1, 2)
        >>> for _ in range(5):
        ...     w, opt = opt.apply(jax.grad(f)(w), w)
        >>> print(f"{f(w):.2f}")
        25.23

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    beta2: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    ns_coefficients: tuple[Triple, ...] = eqx.field(
        converter=as_coefficients, default="standard", static=True
    )
    ns_steps: int = integer("[1, inf)", default=5)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    consistent_rms: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)
    method: Literal["gram", "standard"] = word(
        "method", "gram", "standard", default="gram", kw_only=True
    )
    compute_dtype: DType = dtype_option(default=None, kw_only=True)
    mu_dtype: DType = dtype_option(default=None, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> MomentumAndRows:
        real = real_dtype(compute_dtype(param.dtype))
        nu = jnp.zeros((view.batch, view.rows), real)
        return MomentumAndRows(zeros_like(param, self.mu_dtype), nu)

    def update_matrices(
        self,
        rules: Sequence[Any],
        grads: Sequence[AnyLeaf],
        params: Sequence[AnyLeaf],
        states: Sequence[Any],
        views: Sequence[MatrixView],
    ) -> tuple[list[AnyLeaf], list[Any]]:
        count = count_of(self)
        directions, means = [], []
        for rule, grad, param, state, view in zip(rules, grads, params, states, views):
            old = Momentum(state.mu)
            direction, mean = momentum_matrices(rule, count, grad, param, old, view)
            directions.append(direction)
            means.append(mean)
        eps = [rule.eps for rule in rules]
        orthogonal = orthogonalized(self, directions, eps, count)
        pairs = [(x, state.nu) for x, state in zip(orthogonal, states)]
        made = together(_evened, rules, pairs, count)
        updates = [
            decayed_step(rule, step, param, view)
            for rule, (step, _), param, view in zip(rules, made, params, views)
        ]
        new_states = [
            MomentumAndRows(mean.mu, nu) for mean, (_, nu) in zip(means, made)
        ]
        return updates, new_states


def _evened(
    rule: NorMuon, pair: tuple[Matrix, Float[Array, "batch rows"]]
) -> tuple[Matrix, Float[Array, "batch rows"]]:
    """Orthogonal matrices with their rows brought to one size, and what is known of
    these."""
    x, nu = pair
    _, rows, columns = x.shape
    squares = jnp.sum(abs_sq(x), axis=-1) / max(columns, 1)
    nu = ema(nu, squares, rule.beta2)
    evened = divide(x, sqrt(nu)[..., None] + rule.eps)
    if rule.consistent_rms is None:
        size = spectral_scale(rows, columns, None) * stable_norm(x, axes=(-2, -1))
    else:
        size = rule.consistent_rms * (rows * columns) ** 0.5
    return divide(size, stable_norm(evened, axes=(-2, -1))) * evened, nu
