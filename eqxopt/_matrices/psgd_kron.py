"""PSGD with Kronecker factors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import compute_dtype, real_dtype, zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    Key,
    key_field,
    mask_of,
    matrices_of,
    MatricesField,
    MatrixView,
    OptionalMask,
    view_of,
)
from .._math import abs_sq, debias, divide, ema, is_one_unit, norm, sqrt
from .._number import integer
from .._schedule.abstract import Custom, Step
from .._sharding import gathered, sharded_like
from .._types import AnyLeaf, Leaf, Matrix, Scalar


# A factor is upper triangular, or the diagonal of a matrix.
Factor = Inexact[Array, "batch ..."]

# How much noise, relative to the gradient, keeps a factor's update from what rounding
# leaves of a gradient of lower rank; and how long an update may be: as estimated, its
# root mean square is 1.
DAMPING = float(jnp.finfo(jnp.float32).eps) ** 0.5
MAX_RMS = 1.1


class Kron(NamedTuple):
    """The running mean of a parameter's gradient; the factors of its rows and, if it
    has more than one, of its columns; and the updates since those were changed."""

    mu: Leaf
    left: Factor
    right: Factor | None
    waited: Int[Array, ""]


def update_probability(step: Step) -> Scalar:
    """1 for 500 steps, and then down to 0.03 by step 4000."""
    elapsed = jnp.asarray(step, float) + 1.0 - 500.0
    return jnp.clip(jnp.exp(-0.001 * elapsed), 0.03, 1.0)


def all_but_vectors(path: str, array: AnyLeaf) -> bool:
    return not is_one_unit(array) and not path.endswith("bias")


class PSGDKron(AbstractLeafwiseOptimizer):
    r"""Momentum with a preconditioner that is learned: of each matrix one factor for
    its rows and one for its columns.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        \hat m_t = m_t / (1 - \beta_1^t) \\
    u_t &= -\alpha_t \left( \operatorname{clip}(Q^* Q\, \hat m_t\, R^* R) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    where the clipping is that of the root mean square to 1.1. A share $p_t$ of all
    steps first changes the upper triangular $Q$ and $R$, with a random $V \sim \mathcal
    N(0, 1)$ and $G = \hat m_t + \delta \operatorname{mean}(|\hat m_t|)\, V$, where
    $\delta$ is the root of the precision of float32:

    $$
    \begin{aligned}
    A &= Q\, G R^*, \qquad B = Q^{-*}\, V R^{-1} \\
    Q &\leftarrow Q - \eta\, \operatorname{triu}(A A^* - B B^*)\, Q /
        \|A A^* + B B^*\| \\
    R &\leftarrow R - \eta\, \operatorname{triu}(A^* A - B^* B)\, R /
        \|A^* A + B^* B\|
    \end{aligned}
    $$

    which whitens gradients: at rest, $A$ is as $B$ on average. The norm is a cheap
    lower bound of the spectral norm. A side of more than `max_size_triangular` has a
    diagonal factor, and so have both sides of what is no matrix: a vector has one
    factor, which is as large as itself.

    This is the rule of `distributed-kron`, without its division of large matrices into
    blocks and, for arrays of more than two axes, with the flattening of a convolution.
    As there, a change comes $1 / p_t$ steps after the last, and not at random. It
    balances the sizes of the two factors now and then, which changes nothing but
    rounding; here every change begins with that.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, about a third of AdamW's. 3e-4 is usual.
    - `b1`: $\beta_1 \in [0, 1)$. Default 0.9.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.
    - `preconditioner_update_probability`: $p \in [0, 1]$. By default a schedule: 1 for
        500 steps, and then down to 0.03 by step 4000.
    - `max_size_triangular`: an integer. Default 8192.
    - `preconditioner_lr`: $\eta \ge 0$. Default 0.1.
    - `preconditioner_init_scale`: the scale of $Q \otimes R$ at the start, above 0.
        Default 1. Where gradients are far smaller than 1, a larger one begins faster.
    - `mu_dtype`: the dtype in which $m$ is kept. By default that of the parameter,
        and at least float32.
    - `matrices`: keyword only. Which parameters are matrices: `True` or `"matrix"`,
        `"stack"`, or `False` for each, by a function of `(path, array)` or a tree that
        is a prefix of the model, as for [`eqxopt.Muon`][]. By default all with two axes
        of more than one entry, unless their path ends in "bias".
    - `seed`: keyword only. An integer or a random key. Default 0.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

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
        >>> opt.state.bias.left.shape
        (1, 10)

        ```
    """

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
    matrices: MatricesField = matrices_of(default=all_but_vectors)
    seed: Key = key_field(default=0, kw_only=True)

    def init_leaf(self, param: Leaf) -> Kron:
        view, dtype = seen(param, self.matrices), compute_dtype(param.dtype)
        longest = self.max_size_triangular if self.matrices != "fallback" else 1
        both = view.columns != 1
        scale = self.preconditioner_init_scale ** (0.5 if both else 1.0)

        def factor(size: int) -> Factor:
            if not 1 < size <= longest:
                return jnp.full((view.batch, size), scale, real_dtype(dtype))
            eye = jnp.eye(size, dtype=dtype) * scale.astype(dtype)
            return jnp.broadcast_to(eye, (view.batch, size, size))

        return Kron(
            mu=zeros_like(param, self.mu_dtype),
            left=factor(view.rows),
            right=factor(view.columns) if both else None,
            waited=jnp.zeros((), jnp.int32),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Kron
    ) -> tuple[Leaf, Kron]:
        if param.size == 0:
            return grad, state
        view = seen(param, self.matrices)
        mu = ema(state.mu, grad, self.b1)
        mean = view.matrices(gathered(debias(mu, self.b1, t)))
        waited = state.waited + 1
        due = waited.astype(t.dtype) >= 1 / self.preconditioner_update_probability
        left, right = jax.lax.cond(
            due,
            lambda: self.changed(mean, state.left, state.right),
            lambda: (state.left, state.right),
        )
        whitened = on_both_sides(times, left, right, mean)
        direction = on_both_sides(adjoint_times, left, right, whitened)
        size = sqrt(jnp.mean(abs_sq(direction), (-2, -1), keepdims=True))
        direction = direction / jnp.maximum(1, size / MAX_RMS)
        step = sharded_like(view.array(direction), param) + self.weight_decay * param
        new = Kron(mu, left, right, jnp.where(due, 0, waited))
        return -self.learning_rate * step, new

    def changed(
        self, mean: Matrix, left: Factor, right: Factor | None
    ) -> tuple[Factor, Factor | None]:
        """The factors after one step towards a white gradient."""
        left, right = balanced(left, right)
        noise = jax.random.normal(
            jax.random.wrap_key_data(self.seed), mean.shape, mean.dtype
        )
        size = jnp.mean(jnp.abs(mean), (-2, -1), keepdims=True)
        a = on_both_sides(times, left, right, mean + DAMPING * size * noise)
        b = on_both_sides(adjoint_solve, left, right, noise)
        new_left = stepped(left, a, b, self.preconditioner_lr)
        if right is None:
            return new_left, None
        a, b = jnp.swapaxes(a, -2, -1), jnp.swapaxes(b, -2, -1)
        return new_left, stepped(right, a, b, self.preconditioner_lr)


def seen(param: Leaf, kind: Any) -> MatrixView:
    """The parameter as what `Matrices.read` says that it is."""
    return view_of(param.shape, kind)


def on_both_sides(
    function: Callable[[Any, Any], Any], left: Factor, right: Factor | None, x: Matrix
) -> Matrix:
    """`function` of the factor and the columns, and then of the other and the rows."""
    x = function(left, x)
    if right is None:
        return x
    return jnp.swapaxes(function(right, jnp.swapaxes(x, -2, -1)), -2, -1)


def times(factor: Factor, x: Matrix) -> Matrix:
    return factor[..., None] * x if factor.ndim == 2 else factor @ x


def adjoint_times(factor: Factor, x: Matrix) -> Matrix:
    if factor.ndim == 2:
        return factor[..., None] * x
    return jnp.swapaxes(factor.conj(), -2, -1) @ x


def adjoint_solve(factor: Factor, x: Matrix) -> Matrix:
    """The inverse of the adjoint of a factor, times `x`."""
    if factor.ndim == 2:
        return x / factor[..., None]
    return jax.lax.linalg.triangular_solve(
        factor, x, left_side=True, transpose_a=True, conjugate_a=True
    )


def balanced(left: Factor, right: Factor | None) -> tuple[Factor, Factor | None]:
    """The factors with largest entries of one size, and the same product."""
    if right is None:
        return left, None
    largest = [jnp.max(jnp.abs(x), axis=range(1, x.ndim)) for x in (left, right)]
    ratio = sqrt(largest[1] / largest[0])
    return (
        left * ratio.reshape(-1, *[1] * (left.ndim - 1)),
        right / ratio.reshape(-1, *[1] * (right.ndim - 1)),
    )


def stepped(factor: Factor, a: Matrix, b: Matrix, rate: Scalar) -> Factor:
    """One relative step of the factor of the rows of `a` and `b` to where these have
    equal squares."""
    if factor.ndim == 2:
        x, y = jnp.sum(abs_sq(a), axis=-1), jnp.sum(abs_sq(b), axis=-1)
        bound = jnp.max(x + y, axis=-1, keepdims=True)
        return factor - rate * divide(x - y, bound) * factor
    x, y = (z @ jnp.swapaxes(z.conj(), -2, -1) for z in (a, b))
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
