"""APOLLO: the scales of Adam from a random projection of the gradients."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.nested import fallback_of
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
    word,
)
from .._math import (
    abs_sq,
    clip_factor,
    divide,
    ema,
    one_minus_power,
    plus_one,
    sqrt,
    squarable,
    stable_norm,
)
from .._number import integer
from .._types import FirstMoment, Leaf, Matrix, Scalar, SecondMoment
from ._fallback import Fallback, settle_fallback
from ._sides import transposed_if


# What the authors' code adds to norms that it divides by.
TINY = 1e-8


class Sketch(NamedTuple):
    """The number of updates of a matrix; the random bits of its projection; running
    means of the projected gradient and of its square; and the norm of the last scaled
    gradient, 0 before the first."""

    age: Int[Array, "batch 1"]
    key: KeyData
    mu: FirstMoment
    nu: SecondMoment
    norm: Float[Array, "batch 1 1"]


class APOLLO(AbstractMatrixOptimizer):
    r"""Gradient descent that scales each channel as AdamW would. A few random
    directions are enough to know the scales. For a matrix with fewer rows than columns,

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
    every $T$ steps; only its random key is kept. $10^{-8}$ is added to $\|R_{t,j}\|$
    and $\|\hat G_{t-1}\|$. APOLLO-Mini has one scale for the
    whole matrix, $\|\tilde R_t\| / \|R_t\|$, and so the memory of SGD:

    ```python
    eqxopt.APOLLO(0.01, rank=1, scale=128.0, scale_type="tensor")
    ```

    This is the authors' code: it scales the full gradient, and corrects for the start
    at zero after $\gamma$ has limited the growth. Its weight decay is that of the
    parameter after the step; here, as everywhere, before.

    **Arguments:** keyword only from `b1` on.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf). The authors' is 0.01.
    - `rank`: $r$, an integer in [1, inf), at most the shorter side. Default 256.
    - `update_proj_gap`: $T$, an integer in [1, inf). Default 200.
    - `scale`: $s$, in [0, inf). Default 1.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `b1`: $\beta_1$, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, in [0, inf), outside the root. Default 1e-6.
    - `scale_type`: `"channel"`, the default, or `"tensor"`.
    - `max_growth`: $\gamma$, in (0, inf), usually above 1, or `None`. Default 1.01.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(learning_rate, b2=0.95, weight_decay=0.0)`.
    - `seed`: an integer or a random key. Default 0.

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Zhu et al., [APOLLO: SGD-like Memory, AdamW-level
    Performance](https://arxiv.org/abs/2412.05270), 2024, with its code's defaults; Chen
    et al., [Fira](https://arxiv.org/abs/2410.01623), 2024, for the limit of growth.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqxopt
        >>> model = eqx.nn.Linear(8, 10, key=jax.random.key(0))
        >>> opt = eqxopt.APOLLO(learning_rate=0.01, rank=2).init(model)
        >>> print(eqxopt.describe(opt, model))
        path     shape    dtype    group   rate  state
        .weight  (10, 8)  float32  matrix  0.01  176 B
        .bias    (10,)    float32  AdamW   0.01  80 B
        total    90                              256 B

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
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)
    seed: Key = key_field(default=0, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self)

    def init_matrix(self, param: Leaf, view: MatrixView) -> Sketch:
        dtype = compute_dtype(param.dtype)
        short, long = sorted((view.rows, view.columns))
        shape = view.batch, min(self.rank, short), long
        return Sketch(
            age=jnp.zeros((view.batch, 1), jnp.int32),
            key=jnp.zeros((view.batch, *self.seed.shape), self.seed.dtype),
            mu=jnp.zeros(shape, dtype),
            nu=jnp.zeros(shape, real_dtype(dtype)),
            norm=jnp.zeros((view.batch, 1, 1), real_dtype(dtype)),
        )

    def accumulate(
        self, t: Scalar, grad: Matrix, state: Sketch
    ) -> tuple[Matrix, Sketch]:
        return squarable(grad), state

    def precondition(
        self, t: Scalar, x: Matrix, state: Sketch
    ) -> tuple[Matrix, Sketch]:
        age, key, mu, nu, last_norm = state
        tall = x.shape[1] >= x.shape[2]
        grad = transposed_if(tall, x)
        key = jnp.where(age % self.update_proj_gap == 0, self.seed, key)
        low = projection(key, grad, mu.shape[1]) @ grad
        mu = ema(mu, low, self.b1)
        nu = ema(nu, abs_sq(low), self.b2)
        axes = (-2,) if self.scale_type == "channel" else (-2, -1)
        size = stable_norm(divide(mu, sqrt(nu) + self.eps), axes)
        scaled = grad * (size / (stable_norm(low, axes) + TINY))
        norm = stable_norm(scaled, (-2, -1))
        if self.max_growth is not None:
            limit = clip_factor(norm, self.max_growth * (last_norm + TINY))
            limit = jnp.where(last_norm == 0, 1, limit)
            scaled, norm = limit * scaled, limit * norm
        unbiased = sqrt(one_minus_power(self.b2, t)) / one_minus_power(self.b1, t)
        direction = sqrt(self.scale) * unbiased * scaled
        new = Sketch(plus_one(age), key, mu, nu, norm)
        return transposed_if(tall, direction), new

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        return -self.learning_rate * (direction + self.weight_decay * param)


def projection(
    keys: KeyData, x: Inexact[Array, "batch short long"], rank: int
) -> Float[Array, "batch rank short"]:
    """Random directions that keep the lengths of the columns of `x` on average."""

    def normal(key: KeyData) -> Float[Array, "rank short"]:
        shape, dtype = (rank, x.shape[1]), real_dtype(x.dtype)
        return jax.random.normal(jax.random.wrap_key_data(key), shape, dtype)

    return jax.vmap(normal)(keys) / rank**0.5
