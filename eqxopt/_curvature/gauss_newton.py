"""Gauss-Newton, also as natural gradient and with momentum."""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool

from .._abstract.rules import scalar_of
from .._abstract.step import needed_residual_fn
from .._dtype import widest_real_dtype, zeros_like
from .._fields import Hyperparameter, hyperparameter, OptionalHyperparameter
from .._line_search.abstract import AbstractLineSearch
from .._math import as_arrays, as_vector, clip_factor, global_norm
from .._number import integer
from .._sharding import placed_with
from .._tree import Parameters
from .._types import Leaf, Scalar, Self
from ._active import Active, Arrays
from ._least_squares import (
    damped_solution,
    linearized,
    Mode,
    mode_option,
    Solver,
)
from ._pairs import Last, Pair, times
from .abstract import AbstractNewtonOptimizer, as_search


class Carried(NamedTuple):
    """What Gauss-Newton with momentum keeps of a parameter: with a line search its last
    gradient, and its last direction."""

    grad: Leaf | None
    param: Leaf | None
    direction: Leaf


class GaussNewton(AbstractNewtonOptimizer):
    r"""Gauss-Newton: goes to the minimum of the sum of squares of linearized residuals,
    with damping.

    $$
    \begin{aligned}
    f(\theta) &= \tfrac12 \|r(\theta)\|^2, \qquad J_t = \partial r / \partial \theta \\
    \delta_t &= \mu \delta_{t-1} + (J_t^\top J_t + \lambda I)^{-1} J_t^\top \left(
        r_t - \mu J_t \delta_{t-1} \right) \\
    u_t &= -\eta_t \min(\alpha_t, c / \|\delta_t\|)\, \delta_t
    \end{aligned}
    $$

    `apply` needs the residuals as a function of the model, `opt.apply(grads, model,
    residual_fn=lambda model: ...)`, which gives any tree of arrays. The loss is half
    the sum of their squares, of $|r|^2$ for complex ones.
    [`make_step(..., residuals=True)`][eqxopt.make_step] and [`fit(...,
    residuals=True)`][eqxopt.fit] give it. Of the gradients only this matters: a
    parameter whose gradient is `None` stays as it is.

    For $n$ residuals and $p$ parameters, the system has $\min(n, p)$ rows: $J^\top (J
    J^\top + \lambda I)^{-1}$ is the same. It is solved by a Cholesky decomposition. If
    the system is singular, which takes $\lambda = 0$, the solution is the shortest.
    If $J$ has more entries than `dense_up_to`, then neither $J$ nor the system is
    computed: conjugate gradients use the products of $J$ and $J^\top$ with vectors.
    Otherwise $J$ takes as many evaluations of the residuals as the system has rows, or
    about one with [`eqxopt.rowwise`][], where each residual belongs to a row of data.

    In the literature of natural gradients, $\mu > 0$ is SPRING, $\mu = 0$ is MinSR or
    stochastic reconfiguration, and with [`eqxopt.GridLineSearch`][] it is ENGD-W. There
    $r$ is divided by $\sqrt n$, so that $\lambda$ means the same for every batch.
    Without a line search $\eta_t = 1$, and training can be differentiated in both
    modes.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). Default `None`, for 1.
    - `damping`: $\lambda$, in [0, inf), one number or a schedule. Default 1e-3.
    - `momentum`: $\mu$, in [0, 1]. SPRING takes 0.99; with 1 it may diverge. Default
        `None`, which keeps no direction.
    - `max_norm`: $c$, in (0, inf), the longest step before the line search. Default
        `None`, no bound.
    - `linesearch`: an [`eqxopt.GridLineSearch`][] or another line search. Default
        `None`, for steps at the learning rate.
    - `jacobian`: whether $J$ is computed in `"forward"` mode, for $p$ columns, or in
        `"reverse"` mode, for $n$ rows. Default `"auto"`, the fewer. Keyword only.
    - `dense_up_to`: the most entries of $J$, in [0, inf). Default $2^{26}$, half a
        gigabyte in float64. Keyword only.
    - `cg_steps`: the most steps of conjugate gradients, in [1, inf). Default 100.
        Keyword only.
    - `cg_rtol`: the norm at which they end, as a fraction of that of the right side, in
        [0, inf). Default 1e-6. Keyword only.

    **Raises:** a `ValueError` if `apply` is not given `residual_fn`.

    **Source:** Goldshlager et al., [A Kaczmarz-inspired approach to accelerate the
    optimization of neural network wavefunctions](https://arxiv.org/abs/2401.10190),
    2024: SPRING; Müller and Zeinhofer, [Achieving High Accuracy with PINNs via Energy
    Natural Gradient Descent](https://arxiv.org/abs/2302.13163), 2023: ENGD;
    Guzmán-Cordero et al., [Improving Energy Natural Gradient Descent through Woodbury,
    Momentum, and Randomization](https://arxiv.org/abs/2505.12149), 2025: ENGD-W.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x, y = jnp.array([0.0, 1.0, 2.0]), jnp.array([2.0, 0.736, 0.271])
        >>> curve = lambda p: p["scale"] * jnp.exp(-p["rate"] * x) - y
        >>> params = {"scale": jnp.array(1.0), "rate": jnp.array(0.5)}
        >>> step = eqxopt.make_step(curve, residuals=True)
        >>> opt = eqxopt.GaussNewton(damping=1e-6).init(params)
        >>> for _ in range(6):
        ...     params, opt, loss = step(params, opt)
        >>> print(f"{params['scale']:.3f} {params['rate']:.3f}")
        2.000 1.000

        ```
    """

    uses_value_fn = True
    uses_residual_fn = True
    learns = False

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    damping: Hyperparameter = hyperparameter("[0, inf)", default=1e-3)
    momentum: OptionalHyperparameter = hyperparameter("[0, 1]", default=None)
    max_norm: OptionalHyperparameter = hyperparameter("(0, inf)", default=None)
    linesearch: AbstractLineSearch | None = eqx.field(converter=as_search, default=None)
    jacobian: Mode = mode_option()
    dense_up_to: int = integer("[0, inf)", default=2**26, kw_only=True)
    cg_steps: int = integer("[1, inf)", default=100, kw_only=True)
    cg_rtol: Hyperparameter = hyperparameter("[0, inf)", default=1e-6, kw_only=True)

    def begin(self, parameters: Parameters) -> Self:
        return self

    def init_leaf(self, param: Leaf, last: Last) -> Last | Carried:
        if self.momentum is None:
            return last
        return Carried(*last, direction=placed_with(param, zeros_like(param)))

    def choose(self, active: Active) -> tuple[Self, Arrays, Active]:
        dtype = widest_real_dtype(active.arrays)
        number = lambda name: scalar_of(self, name).astype(dtype)
        solver = Solver(
            self.jacobian, self.dense_up_to, self.cg_steps, number("cg_rtol")
        )
        residual_fn = needed_residual_fn(self, active.step.residual_fn)
        r, jacobian = linearized(residual_fn, active.parameters, dtype, solver)
        solve = lambda r: damped_solution(jacobian, r, number("damping"), solver)
        if self.momentum is None:
            vectors = as_arrays(solve(r), active.arrays)
        else:
            last = as_vector([state.direction for state in active.states], dtype)
            last = number("momentum") * last
            vector = last + solve(r - jacobian.times(last))
            vectors = as_arrays(vector, active.arrays)
            states = [
                state._replace(direction=x) for state, x in zip(active.states, vectors)
            ]
            active = active._replace(states=states)
        directions = active.directions(vectors)
        if self.max_norm is not None:
            directions = _shortened(directions, number("max_norm"))
        # Those that were passed may be anything.
        grads = as_arrays(jacobian.transposed_times(r), active.arrays)
        return self, directions, active._replace(grads=grads)

    def learn(
        self, active: Active, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Self, list[Any]]:
        return self, active.states


def _shortened(directions: Arrays, max_norm: Scalar) -> Arrays:
    factor = clip_factor(global_norm(directions), max_norm)
    return [times(x, factor) for x in directions]
