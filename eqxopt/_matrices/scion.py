"""Scion: steps of one size in a norm for layers, inside a ball of that norm."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.nested import fallback_of
from .._dtype import zeros_like
from .._fields import (
    default_matrices,
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    matrices_of,
    MatricesField,
    MatrixView,
    word,
)
from .._math import ema, Momentum, squarable
from .._types import Leaf, Matrix, Scalar
from ._fallback import Fallback, settle_fallback
from ._newton_schulz import as_newton_schulz, NewtonSchulz


class Scion(AbstractMatrixOptimizer):
    r"""Steps of one size in a norm that suits a layer, inside a ball of that norm.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    u_t &= -\alpha_t \left( \rho\, d(m_t) + \theta_{t-1} \right) \\
    d(m) &= \begin{cases}
        \sqrt{n_\text{out} / n_\text{in}}\; \mathrm{NS}(m) & \text{spectral} \\
        \mathrm{sign}(m) / n_\text{in} & \text{sign}
    \end{cases}
    \end{aligned}
    $$

    where $\mathrm{NS}$ is that of [`eqxopt.Muon`][]. The new parameter lies between the
    old one and the point $-\rho\, d(m_t)$ of the ball. So rates are below 1, and no
    other decay is needed. The sizes do not change with the width of a model, and
    neither does the best rate. The paper takes the spectral norm with $\rho = 50$ for
    hidden layers, the sign with $\rho = 3000$ for the last, and one rate for both:

    ```python
    opt = eqxopt.Partition(
        {
            "hidden": eqxopt.Scion(0.00036),
            "head": eqxopt.Scion(0.00036, 3000.0, norm="sign"),
        },
        lambda path, array: "head" if ".head" in path else "hidden",
    )
    ```

    A convolution counts as its flattened matrix, so that $n_\text{in}$ counts the
    entries of the kernel. The authors' code divides its step by the root of their
    number once more: by $k$ for a kernel of $k \times k$.

    **Arguments:** keyword only from `norm` on.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf).
    - `radius`: $\rho$, in [0, inf). Default 50.
    - `beta`: $\beta$, in [0, 1). Default 0.9. The authors' `momentum` is $1 - \beta$.
    - `eps`: $\varepsilon$, in [0, inf), in the division of $\mathrm{NS}$. Default 1e-7.
    - `norm`: `"spectral"`, the default, or `"sign"`.
    - `constrained`: whether parameters are drawn into the ball. Without, $u_t =
        -\alpha_t \rho\, d(m_t)$. Default `True`.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(learning_rate, b2=0.95, weight_decay=0.0)`.
    - `newton_schulz`: the steps $\mathrm{NS}$, an [`eqxopt.NewtonSchulz`][].
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

    **Source:** Pethick et al., [Training Deep Learning Models with Norm-Constrained
    LMOs](https://arxiv.org/abs/2502.07529), 2025, with its radius and momentum.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    radius: Hyperparameter = hyperparameter("[0, inf)", default=50.0)
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-7)
    norm: Literal["spectral", "sign"] = word(
        "norm", "spectral", "sign", default="spectral", kw_only=True
    )
    constrained: bool = eqx.field(default=True, static=True, kw_only=True)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)
    newton_schulz: NewtonSchulz = eqx.field(
        converter=as_newton_schulz, default_factory=NewtonSchulz, kw_only=True
    )
    mu_dtype: DType = dtype_option(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self)

    def init_matrix(self, param: Leaf, view: MatrixView) -> Momentum:
        return Momentum(zeros_like(param, self.mu_dtype))

    def accumulate(
        self, t: Scalar, grad: Matrix, state: Momentum
    ) -> tuple[Matrix, Momentum]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.beta)
        return mu, Momentum(mu)

    def precondition(
        self, t: Scalar, x: Matrix, state: Momentum
    ) -> tuple[Matrix, Momentum]:
        _, rows, columns = x.shape
        if self.norm == "sign":
            return jnp.sign(x) / columns, state
        return (rows / columns) ** 0.5 * self.newton_schulz(x, self.eps), state

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        corner = self.radius * direction
        return -self.learning_rate * (corner + param if self.constrained else corner)
