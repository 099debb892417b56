"""Scion: steps of one size in a norm for layers, inside a ball of that norm."""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, widen, zeros_like
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
from .._math import ema, Momentum
from .._number import integer
from .._sharding import gathered, sharded_like
from .._types import AnyLeaf, Leaf
from ._fallback import default_fallback
from ._newton_schulz import as_coefficients, Triple
from ._orthogonal import orthogonalized


class Scion(AbstractMatrixOptimizer):
    r"""Steps of one size in a norm that is chosen for what a layer does, which keep it
    inside a ball of that norm.

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

    where $\mathrm{NS}$ is that of [`eqxopt.Muon`][], as is what a matrix is. The new
    parameter lies between the old one and the point $-\rho\, d(m_t)$ of the ball, so
    rates are below 1, and no other decay is needed. The sizes do not change with the
    width of a model, and so neither does the best rate.

    The paper takes the spectral norm with $\rho = 50$ for hidden layers, the sign with
    $\rho = 3000$ for the last, and one rate for both:

    ```python
    opt = eqxopt.Partition(
        {
            "hidden": eqxopt.Scion(0.00036),
            "head": eqxopt.Scion(0.00036, 3000.0, norm="sign"),
        },
        lambda path, array: "head" if ".head" in path else "hidden",
    )
    ```

    A convolution counts as its flattened matrix. The authors' code makes its step
    smaller by another factor of the kernel's width.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone.
    - `radius`: $\rho \ge 0$. Default 50.
    - `beta`: $\beta \in [0, 1)$. Default 0.9. The authors' `momentum` is $1 - \beta$.
    - `ns_coefficients`: $(a, b, c)$, or one such triple for each step, of which the
        last is repeated; or `"standard"`, the default; or `"polar-express"`, which
        brings singular values closer to 1.
    - `ns_steps`: how many steps, at least 1. Default 5.
    - `eps`: $\varepsilon \ge 0$, where $\mathrm{NS}$ divides by a norm. Default 1e-7.
    - `norm`: keyword only, as all that follow. `"spectral"`, the default, or `"sign"`.
    - `constrained`: whether parameters are drawn into the ball; without, $u_t =
        -\alpha_t \rho\, d(m_t)$. Default `True`.
    - `matrices`: which parameters are matrices, as in [`eqxopt.Muon`][]: `True` or
        `"matrix"`, `"stack"`, `False` or `"fallback"`.
    - `fallback`: the optimizer of the other parameters. Default `AdamW(3e-4, b2=0.95,
        weight_decay=0.0)`.
    - `method`: how the steps are made, `"gram"`, the default, or `"standard"`.
    - `compute_dtype`: the dtype of the steps. By default that of the parameter, and at
        least float32.
    - `mu_dtype`: the dtype in which $m$ is kept. By default that of the parameter,
        and at least float32.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Pethick et al., [Training Deep Learning Models with Norm-Constrained
    LMOs](https://arxiv.org/abs/2502.07529), 2025, with the radius and momentum of its
    experiments.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda w: jnp.sum((w - 1) ** 2)
        >>> w = jnp.array([[1.0, 2.0], [3.0, -4.0]])
        >>> opt = eqxopt.Scion(learning_rate=0.05, radius=4.0).init(w)
        >>> for _ in range(5):
        ...     w, opt = opt.apply(jax.grad(f)(w), w)
        >>> print(f"{f(w):.2f}")
        13.83

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    radius: Hyperparameter = hyperparameter("[0, inf)", default=50.0)
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    ns_coefficients: tuple[Triple, ...] = eqx.field(
        converter=as_coefficients, default="standard", static=True
    )
    ns_steps: int = integer("[1, inf)", default=5)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-7)
    norm: Literal["spectral", "sign"] = word(
        "norm", "spectral", "sign", default="spectral", kw_only=True
    )
    constrained: bool = eqx.field(default=True, static=True, kw_only=True)
    matrices: MatricesField = matrices_of(default=default_matrices)
    fallback: AbstractOptimizer = inner(default_factory=default_fallback, kw_only=True)
    method: Literal["gram", "standard"] = word(
        "method", "gram", "standard", default="gram", kw_only=True
    )
    compute_dtype: DType = dtype_option(default=None, kw_only=True)
    mu_dtype: DType = dtype_option(default=None, kw_only=True)

    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> Momentum:
        del view
        return Momentum(zeros_like(param, self.mu_dtype))

    def update_matrices(
        self,
        rules: Sequence[Any],
        grads: Sequence[AnyLeaf],
        params: Sequence[AnyLeaf],
        states: Sequence[Any],
        views: Sequence[MatrixView],
    ) -> tuple[list[AnyLeaf], list[Any]]:
        means, new_states = [], []
        for rule, grad, param, state in zip(rules, grads, params, states):
            mean, new = _mean(rule, grad, param, state)
            means.append(mean)
            new_states.append(new)
        if self.norm == "sign":
            corners = [once_per_shape(jnp.sign)(mean) for mean in means]
        else:
            matrices = [v.matrices(gathered(m)) for m, v in zip(means, views)]
            eps = [rule.eps for rule in rules]
            orthogonal = orthogonalized(self, matrices, eps, count_of(self))
            corners = [view.array(x) for x, view in zip(orthogonal, views)]
        updates = [
            _update(rule, corner, param, view)
            for rule, corner, param, view in zip(rules, corners, params, views)
        ]
        return updates, new_states


@once_per_shape
def _mean(
    rule: Scion, grad: Leaf, param: Leaf, state: Momentum
) -> tuple[Leaf, Momentum]:
    dtype = compute_dtype(param.dtype)
    mu = ema(widen(state.mu, dtype), grad.astype(dtype), rule.beta)
    return mu, Momentum(mu.astype(state.mu.dtype))


@once_per_shape
def _update(rule: Scion, corner: Leaf, param: Leaf, view: MatrixView) -> Leaf:
    columns = max(view.columns, 1)
    sign = rule.norm == "sign"
    scale = 1 / columns if sign else (view.rows / columns) ** 0.5
    step = rule.radius * scale * sharded_like(corner, param)
    if rule.constrained:
        step = step + param.astype(step.dtype)
    return -rule.learning_rate * step
