"""Muon: momentum made orthogonal."""

import equinox as eqx

from .._abstract.matrixwise import AbstractMatrixOptimizer
from .._abstract.nested import fallback_of
from .._dtype import zeros_like
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
from .._math import debiased_mean, ema, Momentum, squarable
from .._types import Leaf, Matrix, Scalar
from ._fallback import Fallback, settle_fallback
from ._newton_schulz import as_newton_schulz, NewtonSchulz, spectral_scale


class Muon(AbstractMatrixOptimizer):
    r"""Momentum of which every matrix is made orthogonal, with another optimizer, by
    default AdamW, for all other parameters.

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

    where $\mathrm{NS}$, [`eqxopt.NewtonSchulz`][], brings all singular values near 1. A
    weight of `equinox.nn.Linear` is the matrix (out, in); a convolution kernel (out,
    in, ...) is flattened to (out, in · ...). Matrices of one shape are treated in one
    batch. This is optax's rule with its axis 1 as the input. By its default, axis 0,
    the scale of an Equinox layer is that of its transpose. PyTorch does not divide by
    $1 - \beta^t$, which only turns the first Nesterov steps a little.

    **Arguments:** keyword only from `matrices` on.

    - `learning_rate`: $\alpha$ of the matrices, in [0, inf).
    - `beta`: $\beta$, in [0, 1). Default 0.95.
    - `eps`: $\varepsilon$, in [0, inf), in the division of $\mathrm{NS}$. Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0. Long training wants 0.1.
    - `mask`: which matrices decay, a [selector][selectors]. Default: all.
    - `consistent_rms`: $c$, in [0, inf), for $s = c \sqrt{\max(n_\text{out},
        n_\text{in})}$, which makes every update's root mean square $c$. With 0.2, rates
        and decays of AdamW fit. Default `None`, for the above.
    - `matrices`: which parameters are matrices, a [selector][matrices-and-the-rest].
    - `fallback`: trains the rest: an optimizer, or a function that makes one from the
        learning rate, such as `eqxopt.AdamW`. Default
        `AdamW(0.015 * learning_rate, b2=0.95, weight_decay=0.0)`, with
        `consistent_rms` at the whole learning rate.
    - `nesterov`: whether to look one step ahead. Default `True`.
    - `newton_schulz`: the steps $\mathrm{NS}$, an [`eqxopt.NewtonSchulz`][].
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).

    **Raises:** a `ValueError` with the path of a matrix that has too few axes.

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

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    consistent_rms: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    matrices: MatricesField = matrices_of(default=default_matrices, kw_only=True)
    fallback: Fallback = fallback_of(default=None, kw_only=True)
    nesterov: bool = eqx.field(default=True, static=True, kw_only=True)
    newton_schulz: NewtonSchulz = eqx.field(
        converter=as_newton_schulz, default_factory=NewtonSchulz, kw_only=True
    )
    mu_dtype: DType = dtype_option(default=None, kw_only=True)

    def __check_init__(self) -> None:
        settle_fallback(self, 0.015 if self.consistent_rms is None else 1.0)

    def init_matrix(self, param: Leaf, view: MatrixView) -> Momentum:
        return Momentum(zeros_like(param, self.mu_dtype))

    def accumulate(
        self, t: Scalar, grad: Matrix, state: Momentum
    ) -> tuple[Matrix, Momentum]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.beta)
        mu_hat = debiased_mean(mu, grad, self.beta, t, nesterov=self.nesterov)
        return mu_hat, Momentum(mu)

    def precondition(
        self, t: Scalar, x: Matrix, state: Momentum
    ) -> tuple[Matrix, Momentum]:
        _, rows, columns = x.shape
        if self.consistent_rms is None:
            scale = spectral_scale(rows, columns)
        else:
            scale = self.consistent_rms * max(rows, columns) ** 0.5
        return scale * self.newton_schulz(x, self.eps), state

    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        return -self.learning_rate * (direction + self.weight_decay * param)
