"""APOLLO: the scales of Adam from a random projection of the gradients."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype
from .._fields import (
    default_matrices,
    Hyperparameter,
    hyperparameter,
    Key,
    key_field,
    KeyData,
    mask_of,
    matrices_of,
    MatricesField,
    MatrixView,
    OptionalHyperparameter,
    OptionalMask,
    transposed_if,
    word,
)
from .._math import abs_sq, clip_factor, ema, one_minus_power, sqrt, stable_norm
from .._number import integer
from .._sharding import gathered, sharded_like
from .._types import AnyLeaf, Leaf
from ._fallback import default_fallback


# What the authors' code adds to norms that it divides by.
TINY = 1e-8


class Sketch(NamedTuple):
    """How many updates a matrix has had; the random bits of its projection; running
    means of its projected gradient and of the square of that; and the norm of its last
    scaled gradient, 0 before the first."""

    age: Int[Array, ""]
    key: KeyData
    mu: Inexact[Array, "batch rank long"]
    nu: Float[Array, "batch rank long"]
    norm: Float[Array, "batch 1 1"]


class APOLLO(AbstractMatrixOptimizer):
    r"""Gradient descent that scales each channel as AdamW would, which a few random
    directions are enough to tell; another optimizer for what is no matrix.

    For a matrix with fewer rows than columns,

    $$
    \begin{aligned}
    R_t &= P_t\, g_t, \qquad P_{t,ij} \sim \mathcal N(0, 1/r) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, R_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |R_t|^2 \\
    \tilde R_t &= m_t / (\sqrt{v_t} + \varepsilon) \\
    G_{t,j} &= g_{t,j}\, \|\tilde R_{t,j}\| / \|R_{t,j}\|
        \qquad \text{for each column } j \\
    \hat G_t &= G_t \min\left( 1, \gamma \|\hat G_{t-1}\| / \|G_t\| \right) \\
    u_t &= -\alpha_t \left( \sqrt s\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
        \hat G_t + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    and for the others the same of the transpose. $P_t$, of $r$ rows, is drawn anew
    every $T$ steps; only its random key is kept. A convolution kernel (out, in, ...) is
    the matrix (out, in · ...).

    APOLLO-Mini has one scale for the whole matrix, $\|\tilde R_t\| / \|R_t\|$, and with
    it the memory of SGD:

    ```python
    eqxopt.APOLLO(0.01, rank=1, scale=128.0, scale_type="tensor")
    ```

    This is the authors' code: it is the full gradient that is scaled, and what corrects
    for the start at zero comes after $\gamma$ has limited the growth. Its weight decay
    is that of the parameter after the step; here, as everywhere, before.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone. The authors' is 0.01.
    - `rank`: $r$, an integer. Default 256. At most the shorter side is of use, and
        taken.
    - `update_proj_gap`: $T$, an integer. Default 200.
    - `scale`: $s \ge 0$. Default 1.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `b1`: keyword only, as all that follow. $\beta_1 \in [0, 1)$. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$. Default 0.999.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-6.
    - `scale_type`: `"channel"`, the default, or `"tensor"`.
    - `max_growth`: $\gamma > 0$, usually above 1; `None` for no limit. Default
        1.01.
    - `matrices`: which parameters are matrices, as for [`eqxopt.Muon`][]: `True` or
        `"matrix"`, `"stack"`, or `False` or `"fallback"` for each, by a function of
        `(path, array)` or a tree that is a prefix of the model.
    - `fallback`: the optimizer of the other parameters. Default `AdamW(3e-4, b2=0.95,
        weight_decay=0.0)`.
    - `seed`: an integer or a random key. Default 0.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Zhu et al., [APOLLO: SGD-like Memory, AdamW-level
    Performance](https://arxiv.org/abs/2412.05270), 2024, with its code's defaults; Chen
    et al., [Fira](https://arxiv.org/abs/2410.01623), 2024, for the limit of growth.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqxopt
        >>> model = eqx.nn.Linear(8, 10, key=jax.random.key(0))
        >>> opt = eqxopt.APOLLO(learning_rate=0.01, rank=2).init(model)
        >>> print(eqxopt.describe(opt, model))
        path     shape    dtype    group   rate    state
        .weight  (10, 8)  float32  matrix  0.01    176 B
        .bias    (10,)    float32  AdamW   0.0003  80 B
        total    90                                256 B

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    rank: int = integer("[1, inf)", default=256)
    update_proj_gap: int = integer("[1, inf)", default=200)
    scale: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9, kw_only=True)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999, kw_only=True)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6, kw_only=True)
    scale_type: Literal["channel", "tensor"] = word(
        "scale_type", "channel", "tensor", default="channel", kw_only=True
    )
    max_growth: OptionalHyperparameter = hyperparameter(
        "(0, inf)", default=1.01, kw_only=True
    )
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)
    seed: Key = key_field(default=0, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> Sketch:
        dtype = compute_dtype(param.dtype)
        short, long = sorted((view.rows, view.columns))
        shape = view.batch, min(self.rank, short), long
        return Sketch(
            age=jnp.zeros((), jnp.int32),
            key=jnp.zeros_like(self.seed),
            mu=jnp.zeros(shape, dtype),
            nu=jnp.zeros(shape, real_dtype(dtype)),
            norm=jnp.zeros((view.batch, 1, 1), real_dtype(dtype)),
        )

    def update_matrices(
        self,
        rules: Sequence[Any],
        grads: Sequence[AnyLeaf],
        params: Sequence[AnyLeaf],
        states: Sequence[Any],
        views: Sequence[MatrixView],
    ) -> tuple[list[AnyLeaf], list[Any]]:
        count = count_of(self)
        results = [
            _update(rule, count, grad, param, state, view)
            for rule, grad, param, state, view in zip(
                rules, grads, params, states, views
            )
        ]
        return [update for update, _ in results], [state for _, state in results]


@once_per_shape
def _update(
    rule: APOLLO,
    count: Int[Array, ""],
    grad: Leaf,
    param: Leaf,
    state: Sketch,
    view: MatrixView,
) -> tuple[Leaf, Sketch]:
    dtype = compute_dtype(param.dtype)
    t, tall = count.astype(real_dtype(dtype)), view.rows >= view.columns
    full = transposed_if(tall, view.matrices(gathered(grad.astype(dtype))))
    key = jnp.where(state.age % rule.update_proj_gap == 0, rule.seed, state.key)
    low = projection(key, full, state.mu.shape[-2]) @ full
    mu, nu = ema(state.mu, low, rule.b1), ema(state.nu, abs_sq(low), rule.b2)
    axes = (-2,) if rule.scale_type == "channel" else (-2, -1)
    size = stable_norm(mu / (sqrt(nu) + rule.eps), axes)
    scaled = full * (size / (stable_norm(low, axes) + TINY))
    norm = stable_norm(scaled, (-2, -1))
    if rule.max_growth is not None:
        limit = clip_factor(norm, rule.max_growth * (state.norm + TINY))
        limit = jnp.where(state.norm == 0, 1, limit)
        scaled, norm = limit * scaled, limit * norm
    unbiased = sqrt(one_minus_power(rule.b2, t)) / one_minus_power(rule.b1, t)
    step = sqrt(rule.scale) * unbiased * scaled
    step = sharded_like(view.array(transposed_if(tall, step)), param)
    update = -rule.learning_rate * (step + rule.weight_decay * param.astype(dtype))
    return update, Sketch(state.age + 1, key, mu, nu, norm)


def projection(
    key: KeyData, x: Inexact[Array, "batch short long"], rank: int
) -> Float[Array, "batch rank short"]:
    """Random directions that keep the lengths of the columns of `x` on average."""
    shape = x.shape[0], rank, x.shape[1]
    normal = jax.random.normal(
        jax.random.wrap_key_data(key), shape, real_dtype(x.dtype)
    )
    return normal / max(rank, 1) ** 0.5
