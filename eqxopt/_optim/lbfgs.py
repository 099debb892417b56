"""L-BFGS, with a line search or with a learning rate."""

from collections.abc import Callable
from typing import Any, cast, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rescaling import wide_gradients
from .._abstract.rules import begun, kept_alone, kept_states, rules, states_of
from .._abstract.step import needed_value, needed_value_fn, Step
from .._abstract.transform import count_of
from .._compile.once import once_per_shape
from .._compile.staging import in_jit
from .._compile.traces import as_argument, compiled
from .._dtype import compute_dtype, real_dtype, widest_real_dtype
from .._fields import hyperparameter, OptionalHyperparameter
from .._line_search.abstract import AbstractLineSearch, Point
from .._line_search.zoom import ZoomLineSearch
from .._math import moved, no_update, own_copy, plus_one, plus_one_if, zero_count
from .._number import integer
from .._sharding import cond
from .._tree import fill, Parameters, replace_fields
from .._types import Amount, AnyLeaf, Count, Leaf, Leaves, Scalar, Self
from ._inverse_hessian import (
    CurvatureMemory,
    empty_memory,
    has_curvature,
    inner_products,
    Pair,
    preconditioned,
    times,
    with_pair,
)


M = TypeVar("M")
Arrays: TypeAlias = list[AnyLeaf]
Memories: TypeAlias = list[CurvatureMemory]


def _as_search(linesearch: AbstractLineSearch | None) -> AbstractLineSearch | None:
    if not isinstance(linesearch, AbstractLineSearch | None):
        raise TypeError(
            f"`LBFGS(linesearch={linesearch!r})` must be a line search, such as "
            "`eqxopt.ZoomLineSearch()`, or `None`"
        )
    return linesearch


class LBFGS(AbstractOptimizer):
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

    Without a line search, training can be differentiated in both modes. With one, only
    in forward mode, as by `jax.jvp` and `jax.jacfwd`: JAX cannot differentiate a loop
    of unknown length in reverse.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). It scales the direction before the search.
        Default `None`, for 1.
    - `memory_size`: $m$, in [1, inf), the number of pairs kept. Default 10. The state
        has $2m + 1$ times the size of the model, $2m + 2$ without a search.
    - `scale_init_precond`: whether to start from $\gamma_t I$, not $I$. Default `True`.
    - `linesearch`: an [`eqxopt.ZoomLineSearch`][], the default, an
        [`eqxopt.BacktrackingLineSearch`][], or `None` for steps at the learning rate.

    **Raises:** a `ValueError` if there is a line search and `apply` is not given
    `value` and `value_fn`.

    **Source:** Liu and Nocedal, [On the limited memory BFGS method for large scale
    optimization](https://doi.org/10.1007/BF01589116), 1989; Nocedal and Wright,
    [Numerical Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Section
    7.2. The defaults and the first $\gamma$ are those of optax.

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
        converter=_as_search, default_factory=ZoomLineSearch
    )
    pairs: Count = eqx.field(default=None, init=False)
    """The pairs stored since `init`."""
    value: Amount = eqx.field(default=None, init=False)
    """The loss at the end of the last line search. 0 before the first."""
    step_size: Amount = eqx.field(default=None, init=False)
    r"""$\eta$ of the last line search that found a lower point."""
    evaluations: Count = eqx.field(default=None, init=False)
    """The number of evaluations of the loss in the last line search."""

    def start(self, parameters: Parameters) -> Self:
        fixed = self.linesearch is None
        memories = [
            empty_memory(param, self.memory_size, keep_param=fixed)
            for param in parameters.arrays
        ]
        new = replace_fields(
            begun(self, parameters),
            kept=kept_alone(parameters, memories),
            pairs=zero_count(),
        )
        if fixed:
            return new
        dtype = widest_real_dtype(parameters.arrays)
        return replace_fields(
            new,
            value=jnp.zeros((), dtype),
            step_size=jnp.ones((), dtype),
            evaluations=zero_count(),
        )

    def value_and_grad(
        self, value_fn: Callable[..., Any], params: M
    ) -> tuple[Scalar, M]:
        """The loss and its gradients at `params`, in the form that `apply` takes. They
        come from the last line search if there was one. Otherwise they are evaluated.

        **Arguments:**

        - `value_fn`: the loss as a function of the model, as in the last `apply`.
        - `params`: the model that the last `apply` returned.

        **Returns:** the loss and a tree of gradients. Gradients of complex parameters
        are conjugated, so that they point uphill.
        """
        count_of(self)
        if in_jit():
            return _value_and_grad(self, params, value_fn)
        return _compiled_value_and_grad(self, params, as_argument(value_fn, params))

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        has_grad = [grad is not None for grad in step.grads]
        updates: Leaves = [None] * len(has_grad)
        if not any(has_grad):
            return updates, replace_fields(self, count=count)
        states = states_of(self, step)
        memories = [state for state, x in zip(states, has_grad) if x]
        active = _active(self, step.only(has_grad), memories)
        if self.linesearch is None:
            new, active_updates, memories = self.fixed_step(active)
        else:
            loss = needed_value(self, step.value)
            loss_fn = needed_value_fn(self, step.value_fn)
            loss_at = lambda arrays: loss_fn(active.parameters.model(arrays))
            search = self.linesearch.at_step(count_of(self), self.value.dtype)
            new, active_updates, memories = self.search_step(
                active, search, loss, loss_at
            )
        fill(updates, has_grad, active_updates)
        fill(states, has_grad, memories)
        kept = kept_alone(step.parameters, states)
        return updates, replace_fields(new, count=count, kept=kept)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays

    def fixed_step(self, active: "_Active") -> tuple[Self, Arrays, Memories]:
        """A step at the learning rate: the optimizer with its new `pairs`, the updates,
        and the next memories. A pair is known only in the step after."""
        wide = [own_copy(array) for array in active.arrays]
        changes = [
            Pair(s=array - cast(Array, memory.param), y=grad - memory.grad)
            for array, grad, memory in zip(wide, active.grads, active.memories)
        ]
        memories, pairs = self.store(active.memories, changes, count_of(self) > 0)
        updates = active.directions(memories, pairs, self.scale_init_precond)
        memories = [
            memory._replace(grad=grad, param=array)
            for memory, grad, array in zip(memories, active.grads, wide)
        ]
        return replace_fields(self, pairs=pairs), updates, memories

    def search_step(
        self,
        active: "_Active",
        search: AbstractLineSearch,
        loss: Scalar,
        loss_at: Callable[..., Any],
    ) -> tuple[Self, Arrays, Memories]:
        """A step found by `search`: the optimizer with what the search found, the
        updates, and the next memories."""
        dtype = self.value.dtype
        directions = active.directions(
            active.memories, self.pairs, self.scale_init_precond
        )

        def line(step_size: Scalar) -> Any:
            updates = _scaled(directions, step_size)
            value, vjp = jax.vjp(loss_at, _moved(active.arrays, updates))

            def slope_and_grads() -> Any:
                (grads,) = vjp(jnp.ones_like(value))
                grads = [_conjugated(grad) for grad in grads]
                return inner_products(directions, grads).astype(dtype), grads

            return value.astype(dtype), slope_and_grads

        start = Point(
            step_size=jnp.zeros((), dtype),
            value=loss.astype(dtype),
            slope=inner_products(directions, active.grads).astype(dtype),
        )
        end, grads, evaluations = search.search(
            line, start, active.grads, self.step_size
        )
        updates = _scaled(directions, end.step_size)
        changes = [
            Pair(s=own_copy(new) - own_copy(old), y=new_grad - grad)
            for new, old, new_grad, grad in zip(
                _moved(active.arrays, updates), active.arrays, grads, active.grads
            )
        ]
        has_moved = end.step_size > 0
        memories, pairs = self.store(active.memories, changes, has_moved)
        memories = [memory._replace(grad=grad) for memory, grad in zip(memories, grads)]
        new = replace_fields(
            self,
            pairs=pairs,
            value=end.value,
            step_size=jnp.where(has_moved, end.step_size, self.step_size),
            evaluations=evaluations,
        )
        return new, updates, memories

    def store(
        self, memories: Memories, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Memories, Int[Array, ""]]:
        """Store the changes of a step if they are known and have curvature. Return the
        memories and the number of pairs stored since `init`."""
        is_stored = is_known & has_curvature(changes)
        index = self.pairs % self.memory_size
        new = [
            with_pair(m, pair, index, is_stored) for m, pair in zip(memories, changes)
        ]
        return new, plus_one_if(is_stored, self.pairs)


class _Active(NamedTuple):
    """The parameters that have a gradient, with all that a step needs of each."""

    parameters: Parameters
    arrays: Arrays
    grads: Arrays
    memories: Memories
    rates: list[Scalar]

    def directions(
        self, memories: Memories, pairs: Int[Array, ""], scale_identity: bool
    ) -> Arrays:
        r"""$-\alpha H g$, when `pairs` pairs have been stored since `init`."""
        vectors = preconditioned(
            memories, self.grads, pairs - 1, scale_identity=scale_identity
        )
        return [times(x, -rate) for x, rate in zip(vectors, self.rates)]


def _active(optimizer: LBFGS, step: Step, memories: Memories) -> _Active:
    parameters = step.parameters
    rates = []
    for rule, param in zip(rules(optimizer, parameters), parameters.arrays):
        dtype = real_dtype(compute_dtype(param.dtype))
        rate = rule.learning_rate
        rates.append(jnp.ones((), dtype) if rate is None else rate)
    grads = [grad for grad in wide_gradients(step) if grad is not None]
    return _Active(parameters, parameters.arrays, grads, memories, rates)


def _scaled(directions: Arrays, step_size: Scalar) -> Arrays:
    return [_scale(direction, step_size) for direction in directions]


@once_per_shape
def _scale(direction: Leaf, step_size: Scalar) -> Leaf:
    # If no step is made, the direction may be infinite.
    scaled = times(direction, step_size)
    return jnp.where(step_size > 0, scaled, no_update(direction))


def _moved(arrays: Arrays, updates: Arrays) -> Arrays:
    return moved(arrays, list(updates))


def _conjugated(grad: Leaf) -> Leaf:
    """JAX's gradient in the form that `apply` takes: complex ones are conjugated, so
    that they point uphill."""
    return jnp.conj(grad).astype(compute_dtype(grad.dtype))


def _value_and_grad(
    optimizer: LBFGS, params: PyTree, value_fn: Callable[..., Any]
) -> tuple[Scalar, PyTree]:
    parameters = Parameters(params)
    memories = kept_states(optimizer, parameters)
    dtype = widest_real_dtype(parameters.arrays)

    def evaluated() -> tuple[Scalar, list[Any]]:
        loss_fn = needed_value_fn(optimizer, value_fn)
        loss = lambda arrays: loss_fn(parameters.model(arrays))
        value, grads = jax.value_and_grad(loss)(parameters.arrays)
        return value.astype(dtype), [_conjugated(grad) for grad in grads]

    if optimizer.linesearch is None:
        value, grads = evaluated()
    else:
        kept = optimizer.value, [memory.grad for memory in memories]
        known = (optimizer.evaluations > 0) & jnp.isfinite(optimizer.value)
        value, grads = cond(known, lambda *kept: kept, lambda *kept: evaluated(), *kept)
    return value, parameters.tree(grads)


_compiled_value_and_grad = compiled(_value_and_grad)
