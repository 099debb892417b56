"""Backtracking: shorter and shorter steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._fields import Hyperparameter, hyperparameter
from .._sharding import cond, tied_together
from .._types import Scalar
from .abstract import AbstractLineSearch, Found, Line, Point


class _Progress(NamedTuple):
    """The next trial's step size, and the best point so far."""

    step_size: Scalar
    best: Point
    best_grads: PyTree
    evaluations: Int[Array, ""]
    finished: Bool[Array, ""]


class BacktrackingLineSearch(AbstractLineSearch):
    r"""Shortens the step until the loss decreases sufficiently.

    $$
    f(\theta + \eta d) \le (1 + \delta) f(\theta) + c\, \eta\, \langle \nabla f(\theta),
    d \rangle + \epsilon
    $$

    is Armijo's criterion for the step size $\eta$ in the direction $d$. The first trial
    is $\min(\gamma \eta_{t-1}, \eta_{\max})$, from the step size $\eta_{t-1}$ of the
    last step that went anywhere. Each further trial is $\beta$ times the one before.
    Gradients are computed only where the loss got lower.

    After the last trial the search takes the lowest point, or no step if none is lower
    than where it began. Optax then takes the last point, uphill or not, and after a
    loss of NaN there goes on from a step size of 0.

    **Arguments:** numbers or schedules.

    - `max_backtracking_steps`: the most shortenings, in [1, inf). Default 20.
    - `slope_rtol`: $c$, in [0, inf). Default 1e-4.
    - `decrease_factor`: $\beta$, in (0, 1). Default 0.8.
    - `increase_factor`: $\gamma$, in [1, inf]. Default 1.5.
    - `max_learning_rate`: $\eta_{\max}$, in (0, inf). Default 1.
    - `atol`: $\epsilon$, in [0, inf). Default 0.
    - `rtol`: $\delta$, in [0, inf). Default 0.

    **Source:** Nocedal and Wright, [Numerical
    Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Algorithm 3.1;
    Vaswani et al., [Painless Stochastic Gradient](https://arxiv.org/abs/1905.09997),
    2019, for the first trial.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> search = eqxopt.BacktrackingLineSearch(slope_rtol=0.1)
        >>> opt = eqxopt.LBFGS(linesearch=search).init(x)
        >>> for _ in range(2):
        ...     value, grads = jax.value_and_grad(f)(x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        ...     print(f"{f(x):.2f} after {opt.evaluations}")
        7.52 after 1
        0.00 after 1

        ```
    """

    max_backtracking_steps: Hyperparameter = hyperparameter("[1, inf)", default=20)
    slope_rtol: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    decrease_factor: Hyperparameter = hyperparameter("(0, 1)", default=0.8)
    increase_factor: Hyperparameter = hyperparameter("[1, inf]", default=1.5)
    max_learning_rate: Hyperparameter = hyperparameter("(0, inf)", default=1.0)
    atol: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    rtol: Hyperparameter = hyperparameter("[0, inf)", default=0.0)

    def search(
        self, line: Line, start: Point, grads: PyTree, previous: Scalar
    ) -> Found:
        def shorten(state: _Progress) -> _Progress:
            value, gradient = line(state.step_size)
            allowed = self.slope_rtol * state.step_size * start.slope + self.atol
            decreased = value <= (1 + self.rtol) * start.value + allowed
            lower = value < state.best.value
            old = state.best, state.best_grads
            slope, new_grads = cond(
                decreased | lower,
                lambda best, grads: gradient(),
                lambda best, grads: (best.slope, grads),
                *old,
            )
            trial = Point(state.step_size, value, slope)
            accepted = decreased & trial.is_finite()
            better = accepted | (lower & trial.is_finite())
            best, best_grads = cond(
                better,
                lambda new, old: new,
                lambda new, old: old,
                (trial, new_grads),
                old,
            )
            evaluations = state.evaluations + 1
            last = evaluations > self.max_backtracking_steps.astype(evaluations.dtype)
            shorter = self.decrease_factor * state.step_size
            return _Progress(shorter, best, best_grads, evaluations, accepted | last)

        first = jnp.minimum(self.increase_factor * previous, self.max_learning_rate)
        state = _Progress(
            step_size=first,
            best=start,
            best_grads=grads,
            evaluations=jnp.zeros((), jnp.int32),
            finished=~(start.slope < 0),
        )
        state = tied_together(state, self)
        state = jax.lax.while_loop(lambda state: ~state.finished, shorten, state)
        return state.best, state.best_grads, state.evaluations
