"""Muon: momentum made orthogonal."""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.optimizer import AbstractOptimizer, as_optimizer, count_of
from .._abstract.together import decayed_step
from .._compile.once import per_leaf
from .._dtype import as_dtype, zeros_like
from .._fields.hyperparameter import fraction, Hyperparameter, nonnegative
from .._fields.matrices import as_matrices, default_matrices, Matrices, MatrixView
from .._fields.options import one_of
from .._fields.selectors import as_mask, Mask, mask_of
from .._math.moments import Momentum
from .._number import check_counts, check_ranges
from .._types import AnyLeaf, Leaf, Matrix
from ._fallback import default_fallback
from ._newton_schulz import as_coefficients, Triple
from ._orthogonal import momentum_matrices, orthogonalized, spectral_scale


class Muon(AbstractMatrixOptimizer):
    r"""Momentum of which every matrix is made orthogonal; another optimizer, by default
    AdamW, for what is no matrix.

    $$
    \begin{aligned}
    m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
    \hat m_t &= \begin{cases}
        \beta m_t / (1 - \beta^{t+1}) + (1 - \beta)\, g_t / (1 - \beta^t) &
            \text{Nesterov} \\
        m_t / (1 - \beta^t) & \text{otherwise}
    \end{cases} \\
    u_t &= -\alpha_t \left( s\, \mathrm{NS}(\hat m_t) + \lambda \theta_{t-1} \right),
        \qquad s = \sqrt{\max(1, n_\text{out} / n_\text{in})}
    \end{aligned}
    $$

    where $\mathrm{NS}$ brings all singular values near 1: from $X_0 = \hat m_t /
    (\|\hat m_t\| + \varepsilon)$, in each step $A = X X^*$ and $X \leftarrow a X + (b A
    + c A^2) X$.

    A weight of `equinox.nn.Linear` is the matrix (out, in); a convolution kernel
    (out, in, ...) is flattened to (out, in · ...). Matrices of one shape are treated
    in one batch. This is optax's rule with its axis 1 as the input: by its default,
    axis 0, the scale of an Equinox layer is that of its transpose. PyTorch does not
    divide by $1 - \beta^t$, which changes the direction of the first Nesterov steps
    a little and nothing else.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, of the matrices alone.
    - `beta`: $\beta \in [0, 1)$. Default 0.95.
    - `ns_coefficients`: $(a, b, c)$, or one such triple for each step, of which the
        last is repeated; or `"standard"`, the default, which is (3.4445, -4.775,
        2.0315) and leaves singular values between about 0.7 and 1.2; or
        `"polar-express"`, the best polynomial for each step, which comes closer to 1.
    - `ns_steps`: how many steps, at least 1. Default 5.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.
    - `weight_decay`: $\lambda \ge 0$. Default 0. Long training of large models wants
        0.1.
    - `mask`: which matrices decay: a tree of booleans that is a prefix of the model, or
        a function of `(path, array)`. By default all do.
    - `consistent_rms`: $c \ge 0$ for $s = c \sqrt{\max(n_\text{out}, n_\text{in})}$,
        which makes the root mean square of an update $c$ for every shape. With 0.2,
        learning rates and decays of AdamW fit. Default `None`, for the $s$ above.
    - `matrices`: keyword only, as all that follow. Which parameters are matrices: a
        function of `(path, array)`, or a tree that is a prefix of the model, giving
        `True` or `"matrix"`; `"stack"`, for layers made by `equinox.filter_vmap`, whose
        leading axis counts matrices; and `False` or `"fallback"`. By default arrays of
        at least two axes, and of more than one row and column, are matrices, unless
        their path has "embed" in it or ends in "bias". Neither stacks nor a last
        layer, which many train with the fallback, can be known by shape or name: say
        where they are. [`eqxopt.describe`][] shows the choice.
    - `fallback`: the optimizer of the other parameters. Default `AdamW(3e-4, b2=0.95,
        weight_decay=0.0)`.
    - `nesterov`: whether to look one step ahead. Default `True`.
    - `method`: `"gram"`, the default, or `"standard"`. Where a matrix is at least 1.5
        times as long as wide, `"gram"` makes the steps on the small $X X^*$, which at
        4 : 1 takes half the operations; only rounding differs.
    - `compute_dtype`: the dtype of the steps. By default that of the parameter, and at
        least float32, which suits CPUs. bfloat16 is far faster on accelerators; there
        combine `"polar-express"` with `method="standard"`, because its large first
        coefficients magnify what rounding does to $X X^*$.
    - `mu_dtype`: the dtype in which $m$ is kept. By default that of the parameter,
        and at least float32.

    **Raises:** a `ValueError` for a parameter that is to be a matrix but has too few
    axes, with its path.

    **Source:** Jordan et al., [Muon: An optimizer for hidden layers in neural
    networks](https://kellerjordan.github.io/posts/muon/), 2024, with its coefficients
    and fallback; Liu et al., [Muon is Scalable for LLM
    Training](https://arxiv.org/abs/2502.16982), 2025, for `consistent_rms`; Amsel et
    al., [The Polar Express](https://arxiv.org/abs/2505.16932), 2025; Dao AI Lab,
    [Gram Newton-Schulz](https://dao-lab.ai/blog/2026/gram-newton-schulz), 2026.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqxopt
        >>> model = eqx.nn.MLP(2, 2, width_size=4, depth=1, key=jax.random.key(0))
        >>> opt = eqxopt.Muon(
        ...     learning_rate=0.02,
        ...     matrices=lambda path, array: path == ".layers[0].weight",
        ... ).init(model)
        >>> print(eqxopt.describe(opt, model))
        path               shape   dtype    group   rate    state
        .layers[0].weight  (4, 2)  float32  matrix  0.02    32 B
        .layers[0].bias    (4,)    float32  AdamW   0.0003  32 B
        .layers[1].weight  (2, 4)  float32  AdamW   0.0003  64 B
        .layers[1].bias    (2,)    float32  AdamW   0.0003  16 B
        total              22                               144 B

        ```
    """

    learning_rate: Hyperparameter = eqx.field(converter=nonnegative)
    beta: Hyperparameter = eqx.field(converter=fraction, default=0.95)
    ns_coefficients: tuple[Triple, ...] = eqx.field(
        converter=as_coefficients, default="standard", static=True
    )
    ns_steps: int = eqx.field(default=5, static=True)
    eps: Hyperparameter = eqx.field(converter=nonnegative, default=1e-8)
    weight_decay: Hyperparameter = eqx.field(converter=nonnegative, default=0.0)
    mask: Mask | None = eqx.field(
        converter=as_mask,
        default=None,
        static=True,
        metadata=mask_of("weight_decay"),
    )
    consistent_rms: Hyperparameter | None = eqx.field(
        converter=nonnegative, default=None
    )
    matrices: Matrices = eqx.field(
        converter=as_matrices, default=default_matrices, static=True, kw_only=True
    )
    fallback: AbstractOptimizer = eqx.field(
        converter=as_optimizer, default_factory=default_fallback, kw_only=True
    )
    nesterov: bool = eqx.field(default=True, static=True, kw_only=True)
    method: Literal["gram", "standard"] = eqx.field(
        converter=one_of("method", "gram", "standard"),
        default="gram",
        static=True,
        kw_only=True,
    )
    compute_dtype: jnp.dtype | None = eqx.field(
        converter=as_dtype, default=None, static=True, kw_only=True
    )
    mu_dtype: jnp.dtype | None = eqx.field(
        converter=as_dtype, default=None, static=True, kw_only=True
    )

    def __check_init__(self) -> None:
        check_ranges(self)
        check_counts(self, "ns_steps")

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
        count = count_of(self)
        directions, means = [], []
        for rule, grad, param, state, view in zip(rules, grads, params, states, views):
            direction, mean = momentum_matrices(rule, count, grad, param, state, view)
            directions.append(direction)
            means.append(mean)
        eps = [rule.eps for rule in rules]
        orthogonal = orthogonalized(self, directions, eps, count)
        updates = [
            _update(rule, x, param, view)
            for rule, x, param, view in zip(rules, orthogonal, params, views)
        ]
        return updates, means


@per_leaf
def _update(
    rule: Muon,
    orthogonal: Matrix,
    param: Leaf,
    view: MatrixView,
) -> Leaf:
    scale = spectral_scale(view.rows, view.columns, rule.consistent_rms)
    return decayed_step(rule, scale * orthogonal, param, view)
