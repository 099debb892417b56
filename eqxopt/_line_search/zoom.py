"""Zoom: a step that satisfies the strong Wolfe conditions."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._fields import (
    Hyperparameter,
    hyperparameter,
    OptionalHyperparameter,
    word,
)
from .._types import Scalar
from .abstract import AbstractLineSearch, Line, Point


class _State(NamedTuple):
    """While no interval is known, `low` is the last trial. Then `low` and `high` are
    the ends of one with a good step size in it, the lower of them first, and `third` is
    the end that was replaced last."""

    low: Point
    high: Point
    third: Point
    zooming: Bool[Array, ""]
    best: Point
    best_grads: PyTree
    sufficient: Bool[Array, ""]  # of the best point
    evaluations: Int[Array, ""]
    finished: Bool[Array, ""]


class ZoomLineSearch(AbstractLineSearch):
    r"""Finds a step that decreases the loss sufficiently and leaves little slope.

    $$
    \begin{aligned}
    f(\theta + \eta d) &\le f(\theta) + c_1 \eta\, \langle \nabla f(\theta), d \rangle
        \\
    |\langle \nabla f(\theta + \eta d), d \rangle| &\le c_2 |\langle \nabla f(\theta), d
        \rangle|
    \end{aligned}
    $$

    are the strong Wolfe conditions for the step size $\eta$ in the direction $d$; they
    make sure that a quasi-Newton method learns something from the step. The search
    first lengthens the step until an interval must contain a good one, and then zooms
    in on it by cubic and quadratic interpolation and bisection.

    Close to a minimum differences of the loss are lost in rounding. If $f(\theta + \eta
    d) \le f(\theta) + c_3 |f(\theta)|$, the first condition is therefore also taken as
    satisfied by a slope of at most $(2 c_1 - 1) \langle \nabla f(\theta), d \rangle$.
    That loss may exceed the old one by a fraction of $c_3$; `approx_dec_rtol=None`
    never lets it.

    If the conditions cannot be met, the search ends with the lowest point at which the
    first of them holds, else with the lowest point, and if none is lower than where it
    began, with no step. Optax then takes the last point, uphill or not.

    **Arguments:**

    - `max_linesearch_steps`: how often the loss is evaluated at most. Default 20.
    - `max_learning_rate`: the longest step, or `None`, the default. If it is reached,
        the second condition is given up.
    - `tol`: how far both conditions may be missed. Default 0.
    - `increase_factor`: how fast the first part lengthens the step, at least 1. Default
        2.
    - `slope_rtol`: $c_1 \ge 0$. Default 1e-4.
    - `curv_rtol`: $c_2 \in [0, \infty]$. Default 0.9.
    - `approx_dec_rtol`: $c_3 \ge 0$, or `None`. Default 1e-6.
    - `stepsize_precision`: an interval as short as this is not searched any further if
        the first condition is met somewhere. Default 1e-5.
    - `initial_guess_strategy`: the first trial: `"one"`, the default, or `"keep"`, the
        step size of the last step that went anywhere.

    All numbers may be schedules.

    **Source:** Nocedal and Wright, [Numerical
    Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Algorithms 3.5 and
    3.6; Hager and Zhang, [Algorithm 851:
    CG_DESCENT](https://doi.org/10.1145/1132973.1132979), 2006, for the approximate
    condition. Defaults are those of `optax.lbfgs`.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> search = eqxopt.ZoomLineSearch(curv_rtol=0.1)
        >>> opt = eqxopt.LBFGS(linesearch=search).init(x)
        >>> value, grads = jax.value_and_grad(f)(x)
        >>> x, opt = opt.apply(grads, x, value=value, value_fn=f)
        >>> print(f"{f(x):.2f} at {opt.step_size:.2f} after {opt.evaluations}")
        0.07 at 4.00 after 3

        ```
    """

    max_linesearch_steps: Hyperparameter = hyperparameter("[1, inf)", default=20)
    max_learning_rate: OptionalHyperparameter = hyperparameter("(0, inf)", default=None)
    tol: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    increase_factor: Hyperparameter = hyperparameter("[1, inf)", default=2.0)
    slope_rtol: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    curv_rtol: Hyperparameter = hyperparameter("[0, inf]", default=0.9)
    approx_dec_rtol: OptionalHyperparameter = hyperparameter("[0, inf)", default=1e-6)
    stepsize_precision: Hyperparameter = hyperparameter("[0, inf)", default=1e-5)
    initial_guess_strategy: Literal["one", "keep"] = word(
        "initial_guess_strategy", "one", "keep", default="one"
    )

    def search(
        self, line: Line, start: Point, grads: PyTree, previous: Scalar
    ) -> tuple[Point, PyTree, Int[Array, ""]]:
        keep = self.initial_guess_strategy == "keep"
        guess = previous if keep else jnp.ones_like(previous)

        def body(state: _State) -> _State:
            first = state.evaluations == 0
            longer = jnp.where(first, guess, self.increase_factor * state.low.step_size)
            longest = jnp.asarray(False)
            if self.max_learning_rate is not None:
                longest = longer >= self.max_learning_rate
                longer = jnp.minimum(longer, self.max_learning_rate)
            step_size = jnp.where(
                state.zooming, _minimum(state.low, state.high, state.third), longer
            )
            value, gradient = line(step_size)
            slope, new_grads = gradient()
            trial = Point(step_size, value, slope)
            new, done = self.narrowed(state, start, trial, first, longest)
            better = done | self.improves(state, start, trial)
            best, best_grads = jax.lax.cond(
                better,
                lambda: (trial, new_grads),
                lambda: (state.best, state.best_grads),
            )
            sufficient = jnp.where(
                better, self.decrease_error(start, trial) <= self.tol, state.sufficient
            )
            evaluations = state.evaluations + 1
            last = evaluations >= self.max_linesearch_steps.astype(evaluations.dtype)
            width = jnp.abs(state.high.step_size - state.low.step_size)
            narrow = state.zooming & (width <= self.stepsize_precision) & sufficient
            # So short that rounding leaves the parameters where they were.
            still = state.zooming & (trial.value == start.value)
            still &= trial.slope == start.slope
            return new._replace(
                best=best,
                best_grads=best_grads,
                sufficient=sufficient,
                evaluations=evaluations,
                finished=done | last | narrow | still,
            )

        no = jnp.asarray(False)
        state = jax.lax.while_loop(
            lambda state: ~state.finished,
            body,
            _State(
                low=start,
                high=start,
                third=start,
                zooming=no,
                best=start,
                best_grads=grads,
                sufficient=no,
                evaluations=jnp.zeros((), jnp.int32),
                finished=~(start.slope < 0),
            ),
        )
        return state.best, state.best_grads, state.evaluations

    def narrowed(
        self,
        state: _State,
        start: Point,
        trial: Point,
        first: Bool[Array, ""],
        longest: Bool[Array, ""],
    ) -> tuple[_State, Bool[Array, ""]]:
        """The interval that `trial` leaves, and whether `trial` ends the search."""
        low, high, zooming = state.low, state.high, state.zooming
        decrease_error = self.decrease_error(start, trial)
        done = jnp.maximum(decrease_error, self.curvature_error(start, trial))
        done = done <= self.tol
        # The minimum is before the trial; or the trial is past the minimum.
        too_high = (decrease_error > 0) | ((trial.value >= low.value) & ~first)
        ahead = jnp.where(zooming, high.step_size - low.step_size, 1)
        past = ~too_high & (trial.slope * ahead >= 0)
        found = too_high | past
        new_low = _where(too_high, low, trial)
        new_high = _where(too_high, trial, _where(past | ~zooming, low, high))
        third = _where(zooming, _where(found, high, low), new_low)
        new = state._replace(
            low=new_low, high=new_high, third=third, zooming=zooming | found
        )
        return new, done | (longest & ~zooming & ~found)

    def improves(self, state: _State, start: Point, trial: Point) -> Bool[Array, ""]:
        """Whether `trial` is better than the best point so far."""
        sufficient = self.decrease_error(start, trial) <= self.tol
        # Longer is better as long as the step is being lengthened.
        known = jnp.where(state.sufficient, state.best.value, start.value)
        better = sufficient & (~state.zooming | (trial.value < known))
        lower = trial.is_finite() & (trial.value < state.best.value)
        return better | (lower & ~sufficient & ~state.sufficient)

    def decrease_error(self, start: Point, trial: Point) -> Scalar:
        """By how much the first condition is missed."""
        rise = trial.value - start.value
        error = rise - self.slope_rtol * trial.step_size * start.slope
        if self.approx_dec_rtol is not None:
            steeper = trial.slope - (2 * self.slope_rtol - 1) * start.slope
            much = rise - self.approx_dec_rtol * jnp.abs(start.value)
            error = jnp.minimum(error, jnp.maximum(steeper, much))
        return _error(trial, error)

    def curvature_error(self, start: Point, trial: Point) -> Scalar:
        """By how much the second condition is missed."""
        return _error(
            trial, jnp.abs(trial.slope) - self.curv_rtol * jnp.abs(start.slope)
        )


def _error(trial: Point, error: Scalar) -> Scalar:
    error = jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))
    return jnp.where(trial.is_finite(), error, jnp.inf)


def _where(condition: Bool[Array, ""], x: Point, y: Point) -> Point:
    return Point(*(jnp.where(condition, a, b) for a, b in zip(x, y)))


def _minimum(low: Point, high: Point, third: Point) -> Scalar:
    """Where in the interval the loss is likely to be lowest: well inside of it, so that
    it shrinks."""
    left = jnp.minimum(low.step_size, high.step_size)
    right = jnp.maximum(low.step_size, high.step_size)
    width = right - left

    def inside(x: Scalar, margin: float) -> Bool[Array, ""]:
        return (x > left + margin * width) & (x < right - margin * width)

    cubic = low.step_size + _cubic_minimum(low, high, third)
    quadratic = low.step_size + _quadratic_minimum(low, high)
    middle = (low.step_size + high.step_size) / 2
    x = jnp.where(inside(quadratic, 0.1), quadratic, middle)
    return jnp.where(inside(cubic, 0.2), cubic, x)


def _cubic_minimum(low: Point, high: Point, third: Point) -> Scalar:
    """From `low`, the minimum of the cubic through three points with the slope of the
    first, or NaN if there is none."""
    b, rise_b = _beyond_slope(low, high)
    c, rise_c = _beyond_slope(low, third)
    scale = jnp.square(b * c) * (b - c)
    cubed = (jnp.square(c) * rise_b - jnp.square(b) * rise_c) / scale
    squared = (b**3 * rise_c - c**3 * rise_b) / scale
    root = jnp.sqrt(jnp.square(squared) - 3 * cubed * low.slope)
    return (root - squared) / (3 * cubed)


def _quadratic_minimum(low: Point, high: Point) -> Scalar:
    """From `low`, the minimum of the parabola through two points with the slope of the
    first."""
    b, rise = _beyond_slope(low, high)
    return -low.slope * jnp.square(b) / (2 * rise)


def _beyond_slope(low: Point, point: Point) -> tuple[Scalar, Scalar]:
    """How far a point is from `low`, and how much higher than the straight line of the
    slope at `low`."""
    distance = point.step_size - low.step_size
    return distance, point.value - low.value - low.slope * distance
