"""Levenberg-Marquardt."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, scalar_of
from .._abstract.step import half_squares, needed_residual_fn, Step
from .._abstract.transform import count_of
from .._dtype import widest_real_dtype
from .._fields import Hyperparameter, hyperparameter
from .._math import (
    as_arrays,
    inner_product,
    moved,
    no_update,
    plus_one,
    plus_one_if,
    squared_norm,
    zero_count,
)
from .._number import integer
from .._tree import fill, Parameters, replace_fields
from .._types import Amount, AnyLeaf, Count, Leaves, Scalar, Self
from ._least_squares import (
    damped_solution,
    Jacobian,
    linearized,
    Mode,
    mode_option,
    Parametric,
    Residuals,
    Solver,
)


class LevenbergMarquardt(AbstractOptimizer):
    r"""Levenberg-Marquardt: Gauss-Newton with a damping that grows where the linearized
    residuals are wrong, and shrinks where they are right.

    $$
    \begin{aligned}
    f(\theta) &= \tfrac12 \|r(\theta)\|^2, \qquad J_t = \partial r / \partial \theta,
        \qquad \delta_t = (J_t^\top J_t + \lambda s_t D_t)^{-1} J_t^\top r_t \\
    q_t &= \frac{f(\theta_{t-1}) - f(\theta_{t-1} - \delta_t)}{f(\theta_{t-1}) -
        \tfrac12 \|r_t - J_t \delta_t\|^2} \\
    u_t, s_{t+1}, \nu_{t+1} &= \begin{cases}
        -\delta_t,\; s_t \max\left( \tfrac13, 1 - (2 q_t - 1)^3 \right),\; 2 &
            \text{if } q_t > 0 \\
        0,\; s_t \nu_t,\; 2 \nu_t & \text{otherwise}
    \end{cases}
    \end{aligned}
    $$

    $s_1 = 1$, $\nu_1 = 2$ and $D = I$, or the diagonal of $J^\top J$ with
    `scale_damping`. A step that does not decrease the loss is not made, and so leaves
    all parameters as they are, bit for bit. The residuals are evaluated once more in
    each step, on the same batch: batches may change from step to step.

    `apply` needs the residuals as a function of the model, as for
    [`eqxopt.GaussNewton`][], which also says how the system is solved, and for which
    parameters.

    $q$ is only rounding where the linearized residuals promise to decrease the loss by
    less than the machine epsilon, as a fraction of the loss. Then no step is made, and
    an $s$ above 1 is divided by 3, down to 1. $s$ stays between $\varepsilon^2$ and $1
    / \varepsilon^2$ for the machine epsilon $\varepsilon$. An accuracy beyond four
    digits needs float64.

    **Arguments:**

    - `damping`: $\lambda$, in (0, inf), one number or a schedule. Default 1e-3.
    - `scale_damping`: whether to damp each parameter in its own unit, so that the steps
        do not depend on the units. It suits the parameters of formulas, and not the
        weights of networks. Default `False`.
    - `jacobian`, `dense_up_to`, `cg_steps`, `cg_rtol`: as for [`eqxopt.GaussNewton`][].
        Keyword only.

    **Raises:** a `ValueError` if `apply` is not given `residual_fn`, or if $J$ has more
    entries than `dense_up_to` with `scale_damping`.

    **Source:** Marquardt, [An Algorithm for Least-Squares Estimation of Nonlinear
    Parameters](https://doi.org/10.1137/0111030), 1963; Nielsen, [Damping parameter in
    Marquardt's
    method](https://orbit.dtu.dk/en/publications/damping-parameter-in-marquardts-method),
    1999, for $q$ and $\nu$.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> rosenbrock = lambda x: (10 * (x[1] - x[0] ** 2), 1 - x[0])
        >>> x = jnp.array([-1.2, 1.0])
        >>> step = eqxopt.make_step(rosenbrock, residuals=True)
        >>> opt = eqxopt.LevenbergMarquardt().init(x)
        >>> for _ in range(25):
        ...     x, opt, loss = step(x, opt)
        >>> print(x.round(3), opt.accepted < 25)
        [1. 1.] True

        ```
    """

    uses_residual_fn = True

    damping: Hyperparameter = hyperparameter("(0, inf)", default=1e-3)
    scale_damping: bool = eqx.field(default=False, static=True)
    jacobian: Mode = mode_option()
    dense_up_to: int = integer("[0, inf)", default=2**26, kw_only=True)
    cg_steps: int = integer("[1, inf)", default=100, kw_only=True)
    cg_rtol: Hyperparameter = hyperparameter("[0, inf)", default=1e-6, kw_only=True)
    value: Amount = eqx.field(default=None, init=False)
    """The loss at the end of the last step. 0 before the first."""
    gain: Amount = eqx.field(default=None, init=False)
    """$q$ of the last step, and 0 if it was not known."""
    factor: Amount = eqx.field(default=None, init=False)
    """$s$, by which the damping of the next step is multiplied."""
    growth: Amount = eqx.field(default=None, init=False)
    r"""$\nu$, by which it grows if that step is not made."""
    accepted: Count = eqx.field(default=None, init=False)
    """The number of steps made since `init`."""

    def start(self, parameters: Parameters) -> Self:
        dtype = widest_real_dtype(parameters.arrays)
        return replace_fields(
            begun(self, parameters),
            kept=(),
            value=jnp.zeros((), dtype),
            gain=jnp.zeros((), dtype),
            factor=jnp.ones((), dtype),
            growth=jnp.full((), 2, dtype),
            accepted=zero_count(),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        residual_fn = needed_residual_fn(self, step.residual_fn)
        has_grad = [grad is not None for grad in step.grads]
        updates: Leaves = [None] * len(has_grad)
        if not any(has_grad):
            return updates, replace_fields(self, count=count)
        parameters = step.parameters.only(has_grad)
        dtype = self.value.dtype
        number = lambda name: scalar_of(self, name).astype(dtype)
        solver = Solver(
            self.jacobian, self.dense_up_to, self.cg_steps, number("cg_rtol")
        )
        r, jacobian = linearized(residual_fn, parameters, dtype, solver)
        delta = self.solution(jacobian, r, number("damping") * self.factor, solver)
        proposed = as_arrays(-delta, parameters.arrays)
        trial = parameters.model(moved(parameters.arrays, list(proposed)))
        new_r = residual_fn(trial).astype(dtype)

        loss, new_loss = half_squares(r), half_squares(new_r)
        change = jacobian.times(delta)
        slope = inner_product(jacobian.transposed_times(r), delta)
        promised = slope - squared_norm(change) / 2
        # Without the cancellation between two sums that are nearly equal.
        fall = inner_product(r - new_r, r + new_r) / 2
        new, is_accepted = self.judged(loss, promised, fall)
        fill(
            updates,
            has_grad,
            [jnp.where(is_accepted, x, no_update(x)) for x in proposed],
        )
        return updates, replace_fields(
            new,
            count=count,
            value=jnp.where(is_accepted, new_loss, loss),
            accepted=plus_one_if(is_accepted, self.accepted),
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays

    def solution(
        self, jacobian: Jacobian, r: Residuals, damping: Scalar, solver: Solver
    ) -> Parametric:
        r"""$\delta$."""
        if not self.scale_damping:
            return damped_solution(jacobian, r, damping, solver)
        if jacobian.matrix is None:
            raise ValueError(
                "`LevenbergMarquardt(scale_damping=True)` needs the Jacobian, but that "
                f"of {jacobian.n} residuals by {jacobian.p} parameters has more "
                f"entries than dense_up_to={self.dense_up_to}. Give a larger one, or "
                "`scale_damping=False`"
            )
        squares = jnp.sum(jnp.square(jacobian.matrix), axis=0)
        # A parameter that changes no residual stays where it is, in any unit.
        factors = 1 / jnp.sqrt(jnp.where(squares > 0, squares, 1))
        scaled = jacobian.with_columns(factors)
        return factors * damped_solution(scaled, r, damping, solver)

    def judged(
        self, loss: Scalar, promised: Scalar, fall: Scalar
    ) -> tuple[Self, Bool[Array, ""]]:
        """This optimizer after a step with these falls of the loss, and whether to make
        that step."""
        eps = jnp.finfo(loss.dtype).eps
        is_known = (promised > eps * loss) & jnp.isfinite(promised)
        ratio = jnp.where(is_known, fall, 0) / jnp.where(is_known, promised, 1)
        gain = jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
        is_accepted = is_known & (gain > 0) & jnp.isfinite(gain)
        right = jnp.clip(gain, 0, 1)  # above 1 as at 1, without overflow
        smaller = self.factor * jnp.maximum(1 / 3, 1 - (2 * right - 1) ** 3)
        back = jnp.where(self.factor > 1, jnp.maximum(1, self.factor / 3), self.factor)
        after = jnp.where(is_known, self.factor * self.growth, back)
        factor = jnp.clip(jnp.where(is_accepted, smaller, after), eps**2, eps**-2)
        grown = jnp.minimum(2 * self.growth, 1 / eps)
        growth = jnp.where(is_known & ~is_accepted, grown, 2)
        new = replace_fields(self, gain=gain, factor=factor, growth=growth)
        return new, is_accepted
