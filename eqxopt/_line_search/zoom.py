"""Zoom: a step that satisfies the strong Wolfe conditions."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._fields import Hyperparameter, hyperparameter, OptionalHyperparameter, word
from .._sharding import cond, tied_together
from .._types import Scalar
from .abstract import AbstractLineSearch, Found, Line, Point


class _Bracket(NamedTuple):
    """While the step is lengthened, `low` is the last trial. While `zooming`, `low` and
    `high` are the ends of an interval with a good step size in it, `low` the one with
    the lower loss, and `third` is the end that was replaced last."""

    low: Point
    high: Point
    third: Point
    zooming: Bool[Array, ""]
    best: Point
    best_grads: PyTree
    sufficient: Bool[Array, ""]  # whether `best` meets the first condition
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

    are the strong Wolfe conditions for the step size $\eta$ in the direction $d$. They
    make sure that a quasi-Newton method learns something from the step. The search
    first lengthens the step until an interval must contain a good one, and then zooms
    in on it by cubic and quadratic interpolation and bisection.

    Close to a minimum differences of the loss are lost in rounding. If $f(\theta + \eta
    d) \le f(\theta) + c_3 |f(\theta)|$, a slope of at most $(2 c_1 - 1) \langle \nabla
    f(\theta), d \rangle$ therefore satisfies the first condition too. The new loss may
    then exceed the old one by the fraction $c_3$; with `approx_dec_rtol=None` never. If
    no point meets both conditions, the search takes one that meets the first, the last
    while it makes the step longer and then the lowest, else the lowest of all, and no
    step if none is lower than where it began. Optax then takes the last point, uphill
    or not.

    **Arguments:** numbers or schedules, but for the last.

    - `max_linesearch_steps`: the most evaluations of the loss, in [1, inf). Default 20.
    - `max_learning_rate`: the longest step, in (0, inf), which the search accepts
        without the second condition. Default `None`, no bound.
    - `tol`: by how much both conditions may be missed, in [0, inf). Default 0.
    - `increase_factor`: the factor that lengthens the step, in [1, inf). Default 2.
    - `slope_rtol`: $c_1$, in [0, inf). Default 1e-4.
    - `curv_rtol`: $c_2$, in [0, inf]. Default 0.9.
    - `approx_dec_rtol`: $c_3$, in [0, inf), or `None`. Default 1e-6.
    - `stepsize_precision`: the length of an interval, in [0, inf), at which the search
        ends if a point has met the first condition. Default 1e-5.
    - `initial_guess_strategy`: the first trial: `"one"`, the default, or `"keep"`, the
        step size of the last step that went anywhere.

    **Source:** Nocedal and Wright, [Numerical
    Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Algorithms 3.5 and
    3.6; Hager and Zhang, [Algorithm 851:
    CG_DESCENT](https://doi.org/10.1145/1132973.1132979), 2006, for the approximate
    condition. Defaults are those of `optax.lbfgs`.
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
    ) -> Found:
        def look(state: _Bracket) -> _Bracket:
            step_size, longest = self.next_step_size(state, previous)
            value, gradient = line(step_size)
            slope, new_grads = gradient()
            trial = Point(step_size, value, slope)
            new, done = self.narrowed(state, start, trial, longest)
            better = done | self.improves(state, start, trial)
            best, best_grads = cond(
                better,
                lambda new, old: new,
                lambda new, old: old,
                (trial, new_grads),
                (state.best, state.best_grads),
            )
            enough = self.decrease_error(start, trial) <= self.tol
            sufficient = jnp.where(better, enough, state.sufficient)
            evaluations = state.evaluations + 1
            last = evaluations >= self.max_linesearch_steps.astype(evaluations.dtype)
            width = jnp.abs(state.high.step_size - state.low.step_size)
            short = (width <= self.stepsize_precision) & sufficient
            # So short a step that rounding leaves the parameters where they were.
            unmoved = (trial.value == start.value) & (trial.slope == start.slope)
            return new._replace(
                best=best,
                best_grads=best_grads,
                sufficient=sufficient,
                evaluations=evaluations,
                finished=done | last | (state.zooming & (short | unmoved)),
            )

        no = jnp.asarray(False)
        state = _Bracket(
            low=start,
            high=start,
            third=start,
            zooming=no,
            best=start,
            best_grads=grads,
            sufficient=no,
            evaluations=jnp.zeros((), jnp.int32),
            finished=~(start.slope < 0),
        )
        state = tied_together(state, self, previous)
        state = jax.lax.while_loop(lambda state: ~state.finished, look, state)
        return state.best, state.best_grads, state.evaluations

    def next_step_size(
        self, state: _Bracket, previous: Scalar
    ) -> tuple[Scalar, Bool[Array, ""]]:
        """The next trial's step size, and whether no longer one is allowed."""
        keep = self.initial_guess_strategy == "keep"
        guess = previous if keep else jnp.ones_like(previous)
        first = state.evaluations == 0
        longer = jnp.where(first, guess, self.increase_factor * state.low.step_size)
        longest = jnp.asarray(False)
        if self.max_learning_rate is not None:
            longest = longer >= self.max_learning_rate
            longer = jnp.minimum(longer, self.max_learning_rate)
        within = _minimum(state.low, state.high, state.third)
        return jnp.where(state.zooming, within, longer), longest

    def narrowed(
        self, state: _Bracket, start: Point, trial: Point, longest: Bool[Array, ""]
    ) -> tuple[_Bracket, Bool[Array, ""]]:
        """The interval that `trial` leaves, and whether `trial` ends the search."""
        low, high, zooming = state.low, state.high, state.zooming
        first = state.evaluations == 0
        decrease_error = self.decrease_error(start, trial)
        curvature_error = self.curvature_error(start, trial)
        done = jnp.maximum(decrease_error, curvature_error) <= self.tol
        # Both say that a minimum lies between `low` and the trial.
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

    def improves(self, state: _Bracket, start: Point, trial: Point) -> Bool[Array, ""]:
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
        error = jnp.abs(trial.slope) - self.curv_rtol * jnp.abs(start.slope)
        return _error(trial, error)


def _error(trial: Point, error: Scalar) -> Scalar:
    """`error` if positive and else 0, and infinity at a point that is not finite."""
    error = jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))
    return jnp.where(trial.is_finite(), error, jnp.inf)


def _where(condition: Bool[Array, ""], x: Point, y: Point) -> Point:
    return Point(*(jnp.where(condition, a, b) for a, b in zip(x, y)))


def _minimum(low: Point, high: Point, third: Point) -> Scalar:
    """Where the loss is likely lowest, well inside the interval, so that it shrinks."""
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
    """The minimum, seen from `low`, of the cubic through three points with the slope of
    the first, or NaN if there is none."""
    b, rise_b = _beyond_slope(low, high)
    c, rise_c = _beyond_slope(low, third)
    scale = jnp.square(b * c) * (b - c)
    cubed = (jnp.square(c) * rise_b - jnp.square(b) * rise_c) / scale
    squared = (b**3 * rise_c - c**3 * rise_b) / scale
    root = jnp.sqrt(jnp.square(squared) - 3 * cubed * low.slope)
    return (root - squared) / (3 * cubed)


def _quadratic_minimum(low: Point, high: Point) -> Scalar:
    """The same of the parabola through two points with the slope of the first."""
    b, rise = _beyond_slope(low, high)
    return -low.slope * jnp.square(b) / (2 * rise)


def _beyond_slope(low: Point, point: Point) -> tuple[Scalar, Scalar]:
    """How far a point is from `low`, and how far above the tangent at `low`."""
    distance = point.step_size - low.step_size
    return distance, point.value - low.value - low.slope * distance
