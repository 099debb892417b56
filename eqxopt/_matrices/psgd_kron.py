"""PSGD with Kronecker factors."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._abstract.matrixwise import AbstractRefreshedMatrixOptimizer
from .._dtype import compute_dtype, real_dtype, zeros_like
from .._fields import (
    Blocks,
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    is_bias,
    Key,
    key_field,
    KeyData,
    layer_of,
    mask_of,
    matrices_of,
    MatricesField,
    MatrixView,
    Modules,
    NORMS,
    OptionalMask,
    stacked_axes,
)
from .._math import (
    abs_sq,
    adjoint,
    adjoint_solve,
    debias,
    divide,
    ema,
    is_one_unit,
    norm,
    plus_one,
    sqrt,
    squarable,
    stable_norm,
)
from .._number import integer
from .._schedule.abstract import Custom, Step
from .._types import AnyLeaf, FirstMoment, Leaf, Matrix, Scalar


Factor: TypeAlias = Inexact[Array, "batch _ _"]
"""An upper triangular matrix, or the diagonal of one as a row, (batch, 1, n)."""

# How much noise, relative to the gradient, keeps a factor's update from what rounding
# leaves of a gradient of lower rank; and how long an update may be: as estimated, its
# root mean square is 1.
DAMPING = float(jnp.finfo(jnp.float32).eps) ** 0.5
MAX_RMS = 1.1


class Kron(NamedTuple):
    """The running mean of the gradient; the factors of the rows and, if there are
    several columns, of these; and the number of updates since the factors changed."""

    mu: FirstMoment
    left: Factor
    right: Factor | None
    waited: Int[Array, "batch 1 1"]


def update_probability(step: Step) -> Scalar:
    """1 for 500 steps, and then down to 0.03 by step 4000."""
    elapsed = jnp.asarray(step, float) + 1.0 - 500.0
    return jnp.clip(jnp.exp(-0.001 * elapsed), 0.03, 1.0)


def all_but_vectors(path: str, array: AnyLeaf, modules: Modules) -> Blocks | bool:
    norm = isinstance(layer_of(modules), NORMS)
    if is_one_unit(array) or is_bias(path) or norm:
        return False
    return Blocks(stacked_axes(array, modules))


class PSGDKron(AbstractRefreshedMatrixOptimizer):
    r"""Momentum with a preconditioner that is learned: for each matrix one factor for
    its rows and one for its columns.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        \hat m_t = m_t / (1 - \beta_1^t) \\
    u_t &= -\alpha_t \left( \operatorname{clip}(Q^* Q\, \hat m_t\, R^* R) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    where the clipping limits the root mean square to 1.1. A share $p_t$ of all steps
    first changes the upper triangular $Q$ and $R$, with a random $V \sim \mathcal N(0,
    1)$ and $G = \hat m_t + \delta \operatorname{mean}(|\hat m_t|)\, V$, where $\delta$
    is the root of the precision of float32:

    $$
    \begin{aligned}
    A &= Q\, G R^*, \qquad B = Q^{-*}\, V R^{-1} \\
    Q &\leftarrow Q - \eta\, \operatorname{triu}(A A^* - B B^*)\, Q /
        \|A A^* + B B^*\| \\
    R &\leftarrow R - \eta\, \operatorname{triu}(A^* A - B^* B)\, R /
        \|A^* A + B^* B\|
    \end{aligned}
    $$

    This whitens gradients: at rest, $A$ is as $B$ on average. The norm is a cheap lower
    bound of the spectral norm. A side of more than `max_size_triangular` has a diagonal
    factor. So have both sides of a parameter that is not a matrix; a vector has one
    factor, as large as itself. This is the rule of `distributed-kron`, without its
    division of large matrices into blocks and, for arrays of more than two axes, with
    the flattening of a convolution. As there, a change comes $1 / p_t$ steps after the
    last, and not at random. It balances the sizes of the two factors now and then,
    which changes nothing but rounding; here every change begins with that.

    **Arguments:** the last two are keyword only.

    - `learning_rate`: $\alpha$, in [0, inf), about a third of AdamW's. 3e-4 is usual.
    - `b1`: $\beta_1$, in [0, 1). Default 0.9.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `preconditioner_update_probability`: $p$, in [0, 1]. By default a schedule: 1 for
        500 steps, and then down to 0.03 by step 4000.
    - `max_size_triangular`: an integer in [1, inf). Default 8192.
    - `preconditioner_lr`: $\eta$, in [0, inf). Default 0.1.
    - `preconditioner_init_scale`: the scale of $Q \otimes R$ at the start, in (0, inf).
        Default 1. Where gradients are far smaller than 1, a larger one begins faster.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
        Default: all with two axes of more than one entry, unless the path ends in
        "bias" or the layer is a norm.
    - `seed`: an integer or a random key. Default 0.

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Pooladzandi and Li, [Curvature-Informed SGD via General Purpose
    Lie-Group Preconditioners](https://arxiv.org/abs/2402.04553), 2024;
    [distributed-kron](https://github.com/evanatyourservice/distributed_kron), with its
    defaults.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqxopt
        >>> model = eqx.nn.Linear(8, 10, key=jax.random.key(0))
        >>> opt = eqxopt.PSGDKron(learning_rate=0.001).init(model)
        >>> opt.state.weight.left.shape, opt.state.weight.right.shape
        ((1, 10, 10), (1, 8, 8))
        >>> opt.state.bias.left.shape  # a diagonal
        (1, 1, 10)

        ```
    """

    fallback: ClassVar[None] = None
    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    preconditioner_update_probability: Hyperparameter = hyperparameter(
        "[0, 1]", default_factory=lambda: Custom(update_probability)
    )
    max_size_triangular: int = integer("[1, inf)", default=8192)
    preconditioner_lr: Hyperparameter = hyperparameter("[0, inf)", default=0.1)
    preconditioner_init_scale: Hyperparameter = hyperparameter("(0, inf)", default=1.0)
    mu_dtype: DType = dtype_option(default=None)
    matrices: MatricesField = matrices_of(default=all_but_vectors, kw_only=True)
    seed: Key = key_field(default=0, kw_only=True)

    def init_matrix(self, param: Leaf, view: MatrixView) -> Kron:
        dtype = compute_dtype(param.dtype)
        longest = 1 if self.matrices is None else self.max_size_triangular
        both = view.columns != 1
        scale = self.preconditioner_init_scale ** (0.5 if both else 1.0)

        def factor(size: int) -> Factor:
            if not 1 < size <= longest:
                return jnp.full((view.batch, 1, size), scale, real_dtype(dtype))
            eye = jnp.eye(size, dtype=dtype) * scale.astype(dtype)
            return jnp.broadcast_to(eye, (view.batch, size, size))

        return Kron(
            mu=zeros_like(param, self.mu_dtype),
            left=factor(view.rows),
            right=factor(view.columns) if both else None,
            waited=jnp.zeros((view.batch, 1, 1), jnp.int32),
        )

    def accumulate(self, t: Scalar, grad: Matrix, state: Kron) -> tuple[Matrix, Kron]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        mu_hat = debias(mu, self.b1, t)
        return mu_hat, state._replace(mu=mu, waited=plus_one(state.waited))

    def due(self, count: Int[Array, ""], state: Kron) -> Bool[Array, "batch 1 1"]:
        gap = 1 / self.preconditioner_update_probability
        return state.waited.astype(gap.dtype) >= gap

    def refresh(self, t: Scalar, x: Matrix, state: Kron) -> Kron:
        left, right = balanced(state.left, state.right)
        v = normal(self.seed, x)
        size = jnp.mean(jnp.abs(x), (-2, -1), keepdims=True)
        a = squarable(on_both_sides(times, left, right, x + DAMPING * size * v))
        b = squarable(on_both_sides(times_inverse_adjoint, left, right, v))
        left = stepped(left, a, b, self.preconditioner_lr)
        if right is not None:
            a, b = transposed(a), transposed(b)
            right = stepped(right, a, b, self.preconditioner_lr)
        return Kron(state.mu, left, right, jnp.zeros_like(state.waited))

    def precondition(self, t: Scalar, x: Matrix, state: Kron) -> tuple[Matrix, Kron]:
        whitened = on_both_sides(times, state.left, state.right, x)
        direction = on_both_sides(adjoint_times, state.left, state.right, whitened)
        entries = x.shape[-2] * x.shape[-1]
        size = stable_norm(direction, axes=(-2, -1)) / entries**0.5
        return direction / jnp.maximum(1, size / MAX_RMS), state

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        return -self.learning_rate * (direction + self.weight_decay * param)


def normal(keys: KeyData, like: Matrix) -> Matrix:
    """Standard normal numbers, for each matrix with its own key."""

    def draw(key: KeyData) -> Inexact[Array, "rows columns"]:
        key = jax.random.wrap_key_data(key)
        return jax.random.normal(key, like.shape[1:], like.dtype)

    return jax.vmap(draw)(keys)


def transposed(x: Inexact[Array, "batch r c"]) -> Inexact[Array, "batch c r"]:
    return jnp.swapaxes(x, -2, -1)


def on_both_sides(
    function: Callable[[Factor, Matrix], Matrix],
    left: Factor,
    right: Factor | None,
    x: Matrix,
) -> Matrix:
    """`function` of the factor and the columns, and then of the other and the rows."""
    x = function(left, x)
    return x if right is None else transposed(function(right, transposed(x)))


def is_diagonal(factor: Factor) -> bool:
    return factor.shape[1] == 1


def times(factor: Factor, x: Matrix) -> Matrix:
    return transposed(factor) * x if is_diagonal(factor) else factor @ x


def adjoint_times(factor: Factor, x: Matrix) -> Matrix:
    return times(factor if is_diagonal(factor) else adjoint(factor), x)


def times_inverse_adjoint(factor: Factor, x: Matrix) -> Matrix:
    return x / transposed(factor) if is_diagonal(factor) else adjoint_solve(factor, x)


def balanced(left: Factor, right: Factor | None) -> tuple[Factor, Factor | None]:
    """The factors with largest entries of one size, and the same product."""
    if right is None:
        return left, None
    largest = lambda x: jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    ratio = sqrt(largest(right) / largest(left))
    return left * ratio, right / ratio


def stepped(factor: Factor, a: Matrix, b: Matrix, rate: Float[Array, "..."]) -> Factor:
    """A relative step of the factor of rows to where `a` and `b` have equal squares."""
    if is_diagonal(factor):
        x, y = jnp.sum(abs_sq(a), axis=-1), jnp.sum(abs_sq(b), axis=-1)
        bound = jnp.max(x + y, axis=-1)[:, None, None]
        return factor - rate * divide((x - y)[:, None], bound) * factor
    x, y = a @ adjoint(a), b @ adjoint(b)
    bound = jax.vmap(spectral_bound)(x + y)[:, None, None]
    return factor - rate * divide(jnp.triu(x - y), bound) @ factor


def spectral_bound(x: Inexact[Array, "n n"]) -> Scalar:
    """A lower bound of the spectral norm of a Hermitian matrix, from one step of the
    power method from its longest column."""
    largest = jnp.max(jnp.abs(x))
    x = divide(x, largest)
    longest = x[:, jnp.argmax(jnp.sum(abs_sq(x), axis=0))]
    row = longest.conj() @ x
    return largest * norm(divide(row, norm(row)) @ x.conj().T)
