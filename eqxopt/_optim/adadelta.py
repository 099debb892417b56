"""Adadelta."""

from typing import NamedTuple

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import abs_sq, divide, ema, sqrt
from .._types import Leaf, RealLeaf, Scalar


class MeanSquares(NamedTuple):
    """Running means of the squares of a parameter's gradient and of its step."""

    e_g: RealLeaf
    e_x: RealLeaf


class Adadelta(AbstractLeafwiseOptimizer):
    r"""Adadelta: steps in the units of the parameter, as long as the steps before.

    $$
    \begin{aligned}
    \tilde g_t &= g_t + \lambda \theta_{t-1} \\
    E_t &= \rho E_{t-1} + (1 - \rho)\, |\tilde g_t|^2 \\
    x_t &= \sqrt{X_{t-1} + \varepsilon} \; \tilde g_t / \sqrt{E_t + \varepsilon} \\
    X_t &= \rho X_{t-1} + (1 - \rho)\, |x_t|^2 \\
    u_t &= -\alpha_t\, x_t
    \end{aligned}
    $$

    $\varepsilon$ also starts the steps, which begin at about
    $\sqrt{\varepsilon / (1 - \rho)}$ and grow from there. The learning rate scales what
    is added and not what is remembered; without one $u_t = -x_t$, as in the paper. The
    decay is added to the gradient, as in PyTorch and optax: it is not decoupled.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$; `None`, the default, for no scaling.
    - `rho`: $\rho \in [0, 1)$, the decay of both means. Default 0.9.
    - `eps`: $\varepsilon \ge 0$, inside both roots. Default 1e-6. With 0 nothing ever
        moves.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `weight_decay_mask`: which parameters decay: a tree of booleans that is a prefix
        of the model, or a function of `(path, array)`. By default all do.

    **Source:** Zeiler, [ADADELTA: An Adaptive Learning Rate
    Method](https://arxiv.org/abs/1212.5701), 2012, whose experiments use $\rho = 0.95$
    with $\varepsilon$ from 1e-8 to 1e-2. The defaults are PyTorch's.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Adadelta(learning_rate=10.0).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        12.14

        ```
    """

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    rho: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_decay_mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> MeanSquares:
        return MeanSquares(real_zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanSquares
    ) -> tuple[Leaf, MeanSquares]:
        grad = grad + self.weight_decay * param
        e_g = ema(state.e_g, abs_sq(grad), self.rho)
        # One root, of the quotient: it is what takes most of the time.
        step = sqrt(divide(state.e_x + self.eps, e_g + self.eps)) * grad
        e_x = ema(state.e_x, abs_sq(step), self.rho)
        rate = self.learning_rate
        return -step if rate is None else -rate * step, MeanSquares(e_g, e_x)
