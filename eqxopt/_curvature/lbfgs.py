"""L-BFGS, with a line search or with a learning rate."""

from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._dtype import widest_real_dtype
from .._fields import (
    bound,
    bounds_by_path,
    bounds_of,
    check_order,
    fix_bound,
    hyperparameter,
    OptionalBound,
    OptionalHyperparameter,
)
from .._line_search.abstract import AbstractLineSearch
from .._line_search.zoom import ZoomLineSearch
from .._math import plus_one_if, zero_count
from .._number import check_fields, integer
from .._tree import Parameters, replace_fields
from .._types import Amount, Count, Leaf, Scalar, Self
from ._active import Active, Arrays
from ._box import (
    box_of,
    is_outside,
    onward,
    projected_norm,
    reached,
    reaching,
)
from ._memory import (
    CurvatureMemory,
    empty_memory,
    preconditioned,
    scale_of_newest,
    with_pair,
)
from ._pairs import has_curvature, inner_products, is_positive, Last, Pair, times
from .abstract import AbstractNewtonOptimizer, as_search


class LBFGS(AbstractNewtonOptimizer):
    r"""L-BFGS: multiplies the gradient by an inverse Hessian estimated from the last
    steps, and finds the length of each step by a line search.

    $$
    \begin{aligned}
    u_t &= -\eta_t\, \alpha_t\, H_t g_t \\
    H_{j+1} &= (I - \rho_j s_j y_j^\top) H_j (I - \rho_j y_j s_j^\top)
        + \rho_j s_j s_j^\top, \qquad \rho_j = 1 / \langle s_j, y_j \rangle
    \end{aligned}
    $$

    A pair is a change $s$ of the parameters and the change $y$ of their gradients. The
    recursion runs over the last $m$ pairs, from the oldest to the newest. It starts
    from $\gamma_t I$, where $\gamma_t = \langle s, y \rangle / \|y\|^2$ for the newest
    pair, and $\gamma_1 = \min(1, 1 / \|g_1\|)$. Products are taken over all parameters
    together, with $\langle x, y \rangle = \operatorname{Re} x^* y$ for complex ones.
    Without a line search $\eta_t = 1$.

    With a line search, `apply` needs the loss, and the loss as a function of the model,
    both on the same data as the gradients:

    ```python
    value, grads = opt.value_and_grad(loss_fn, model)
    model, opt = opt.apply(grads, model, value=value, value_fn=loss_fn)
    ```

    The search does not evaluate the point where it begins. It keeps the loss and the
    gradients at the point where it ends, and `opt.value_and_grad` returns these without
    evaluating anything. This holds as long as the loss function is the same and `model`
    is what `apply` returned. For another batch, use `equinox.filter_value_and_grad`.

    A pair is used only if $\langle s, y \rangle > 0$, which zoom ensures. Optax also
    uses pairs with a negative product, and then $H_t g_t$ may point uphill. With a line
    search, $s$ and $y$ connect the two ends of one search, so a pair never mixes the
    gradients of two batches, as it does in optax and PyTorch. A line search needs the
    gradients of `value_fn`: do not clip them or change them otherwise.

    If the search finds no lower point, the next one is along the gradient. If three of
    these find none either, the last two from steps about a million times shorter each,
    the optimizer is at a minimum to rounding: it makes no update and evaluates nothing
    as long as the gradients stay the same. In a flat valley or near a saddle, where the
    loss changes by rounding only, it goes on as long as the gradients become smaller,
    and for at most 20 other steps.

    Without a line search, training can be differentiated in both modes. With one, only
    in forward mode, as by `jax.jvp` and `jax.jacfwd`: JAX cannot differentiate a loop
    of unknown length in reverse.

    With bounds $l \le \theta \le h$ this is a projected quasi-Newton method:

    $$
    \theta_t = P(\theta_{t-1} + \eta_t d_t), \qquad P(x) = \min(\max(x, l), h), \qquad
    d_F = -\alpha_t H_F \, g_F, \qquad d_A = P(\theta_A - \alpha_t \gamma_t \, g_A) -
    \theta_A
    $$

    $A$ has the entries that a step of $-\alpha_t \gamma_t g_t$ would take to a bound.
    They go straight there, and stay if they are there already. $F$ has all others. The
    recursion runs over these alone, and uses the pairs whose product over them is
    positive. After a search that failed, $A$ has all entries. No point outside the
    bounds is evaluated, and no parameter ends outside, rounding included. A model that
    starts outside first moves to the nearest point between the bounds, in a step of its
    own without a search, which leaves `value` at the loss outside.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). It scales the direction before the search.
        Default `None`, for 1.
    - `memory_size`: $m$, in [1, inf), the number of pairs kept. Default 10. The state
        has $2m + 1$ times the size of the model, $2m + 2$ without a search.
    - `scale_init_precond`: whether to start from $\gamma_t I$, not $I$. Default `True`.
    - `linesearch`: an [`eqxopt.ZoomLineSearch`][], the default, an
        [`eqxopt.BacktrackingLineSearch`][], or `None` for steps at the learning rate.
    - `lower`: $l$, in [-inf, inf]: a number, an array of the parameter's shape, or a
        choice of these per parameter, which is a tree that is a prefix of the model or
        a function of `(path, array)`. In a choice, `None` is no bound. No schedule: to
        move a bound, call `opt.replace`, which recompiles nothing. Default `None`, for
        no bounds.
    - `upper`: $h$, likewise, and not below `lower`.

    **Raises:** a `ValueError` if there is a line search and `apply` is not given
    `value` and `value_fn`, if a bound does not fit the model, or if `lower` is above
    `upper`; a `TypeError` for a bound on a complex parameter.

    **Source:** Liu and Nocedal, [On the limited memory BFGS method for large scale
    optimization](https://doi.org/10.1007/BF01589116), 1989; Nocedal and Wright,
    [Numerical Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Section
    7.2. The defaults and the first $\gamma$ are those of optax. For bounds: Bertsekas,
    [Projected Newton methods for optimization problems with simple
    constraints](https://doi.org/10.1137/0320018), 1982.
    [L-BFGS-B](https://doi.org/10.1137/0916069) ends at the same points by other steps:
    it finds $A$ along the path of the projected gradient.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.LBFGS().init(x)
        >>> for _ in range(3):
        ...     value, grads = opt.value_and_grad(f, x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        ...     print(f"{opt.value:.2f}")
        7.52
        0.00
        0.00

        ```
    """

    uses_value_fn = True

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    memory_size: int = integer("[1, inf)", default=10)
    scale_init_precond: bool = eqx.field(default=True, static=True)
    linesearch: AbstractLineSearch | None = eqx.field(
        converter=as_search, default_factory=ZoomLineSearch
    )
    lower: OptionalBound = bound(default=None)
    upper: OptionalBound = bound(default=None)
    pairs: Count = eqx.field(default=None, init=False)
    """The pairs stored since `init`."""
    residual: Amount = eqx.field(default=None, init=False)
    r"""$\|P(\theta - g) - \theta\|$ at the parameters that the last `apply` was given,
    which is 0 at a minimum between the bounds. `None` without bounds."""

    def __check_init__(self) -> None:
        low, high = dict(bounds_by_path(self.lower)), dict(bounds_by_path(self.upper))
        for path in low.keys() & high.keys():
            check_order("LBFGS", low[path], high[path], ("lower", "upper"), path)

    def begin(self, parameters: Parameters) -> Self:
        if self.lower is None and self.upper is None:
            return replace_fields(self, pairs=zero_count(), residual=None)
        new = replace_fields(
            self,
            lower=fix_bound(self.lower, parameters, "`LBFGS.lower`"),
            upper=fix_bound(self.upper, parameters, "`LBFGS.upper`"),
            pairs=zero_count(),
            residual=jnp.zeros((), widest_real_dtype(parameters.arrays)),
        )
        check_fields(new)  # also what a function has chosen
        bounds = zip(parameters.paths, *_bounds(new, parameters))
        for path, low, high in bounds:
            check_order("LBFGS", low, high, ("lower", "upper"), path)
        return new

    def init_leaf(self, param: Leaf, last: Last) -> CurvatureMemory:
        return empty_memory(last, self.memory_size)

    def choose(self, active: Active) -> tuple[Self, Arrays, Active]:
        if self.lower is not None or self.upper is not None:
            return _chosen_in_box(self, active)
        fixed = self.linesearch is None
        vectors = preconditioned(
            active.states,
            active.grads,
            self.pairs - 1,
            scale_identity=self.scale_init_precond,
            has_failed=None if fixed else self.has_failed(active),
        )
        return self, active.directions(vectors), active

    def learn(
        self, active: Active, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Self, list[Any]]:
        is_stored = is_known & has_curvature(changes)
        index = self.pairs % self.memory_size
        memories = [
            with_pair(memory, pair, index, is_stored)
            for memory, pair in zip(active.states, changes)
        ]
        return replace_fields(self, pairs=plus_one_if(is_stored, self.pairs)), memories


O = TypeVar("O", bound=LBFGS)


def _bounds(optimizer: LBFGS, parameters: Parameters) -> tuple[list[Any], list[Any]]:
    lows = bounds_of(optimizer.lower, parameters, "`LBFGS.lower`")
    return lows, bounds_of(optimizer.upper, parameters, "`LBFGS.upper`")


def _chosen_in_box(optimizer: O, active: Active) -> tuple[O, Arrays, Active]:
    """`choose` with bounds: entries that are near one go straight to it, and the others
    in the quasi-Newton direction of these alone."""
    arrays, grads, newest = active.arrays, active.grads, optimizer.pairs - 1
    box = box_of(arrays, *_bounds(optimizer, active.parameters))
    scale = scale_of_newest(active.states, grads, newest)
    descent = active.directions([times(grad, scale) for grad in grads])
    held = reached(box, arrays, grads, descent)
    descent = reaching(box, arrays, descent)
    vectors = preconditioned(
        active.states,
        grads,
        newest,
        scale_identity=optimizer.scale_init_precond,
        free=[None if some is None else ~some for some in held],
    )
    directions = [
        way if some is None else jnp.where(some, straight, way)
        for some, straight, way in zip(held, descent, active.directions(vectors))
    ]
    # What stops at a bound pointed uphill: what points downhill there is held.
    directions = onward(box, arrays, directions, jnp.zeros_like(scale))
    downhill = is_positive(-inner_products(directions, grads))
    optimizer = _noted(optimizer, projected_norm(box, arrays, grads))
    if optimizer.linesearch is not None:
        downhill &= optimizer.failures == 0
    inside = ~is_outside(box, arrays)
    directions = [
        jnp.where(inside, jnp.where(downhill, way, straight), 0)
        for way, straight in zip(directions, descent)
    ]
    return optimizer, directions, active._replace(box=box)


def _noted(optimizer: O, residual: Scalar) -> O:
    if optimizer.residual is None:  # bounds that came after `init`
        return optimizer
    residual = residual.astype(optimizer.residual.dtype)
    if optimizer.linesearch is None:
        return replace_fields(optimizer, residual=residual)
    # Other bounds may let a search succeed where it failed.
    is_same = residual == optimizer.residual
    failures = jnp.where(is_same, optimizer.failures, 0)
    return replace_fields(optimizer, residual=residual, failures=failures)
