"""L-BFGS, with a line search or at a rate of your choice."""

from collections.abc import Callable
from typing import Any, cast, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    count_of,
    in_jit,
    needed_value,
    needed_value_fn,
)
from .._abstract.rescaling import wide_gradients
from .._abstract.rules import begun, kept_states, rules, state_tree, states_of
from .._abstract.step import Step
from .._compile.closures import as_pytree
from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, widest_real_dtype
from .._fields import (
    hyperparameter,
    OptionalHyperparameter,
)
from .._line_search.abstract import AbstractLineSearch, Point
from .._line_search.zoom import ZoomLineSearch
from .._math import moved, no_update, own_copy, plus_one_if, zero_count
from .._number import integer
from .._tree import fill, Parameters, replace_fields
from .._types import Amount, AnyLeaf, Count, Leaf, Leaves, Scalar, Self
from ._inverse_hessian import (
    Change,
    empty_history,
    History,
    inner_products,
    is_curved,
    preconditioned,
    remembered,
    times,
)


M = TypeVar("M")
Arrays: TypeAlias = list[AnyLeaf]
# Changed fields, the updates, and the next states.
Made: TypeAlias = tuple[dict[str, Any], Arrays, list[History]]


def _as_search(linesearch: AbstractLineSearch | None) -> AbstractLineSearch | None:
    if not isinstance(linesearch, AbstractLineSearch | None):
        raise TypeError(
            f"`LBFGS(linesearch={linesearch!r})` must be a line search, such as "
            "`eqxopt.ZoomLineSearch()`, or `None`"
        )
    return linesearch


class LBFGS(AbstractOptimizer):
    r"""L-BFGS: steps along the gradient times an inverse Hessian that the last steps
    tell, each as long as a line search finds good.

    $$
    \begin{aligned}
    u_t &= -\eta_t\, \alpha_t\, H_t g_t \\
    H_{j+1} &= (I - \rho_j s_j y_j^\top) H_j (I - \rho_j y_j s_j^\top)
        + \rho_j s_j s_j^\top, \qquad \rho_j = 1 / \langle s_j, y_j \rangle
    \end{aligned}
    $$

    over the last $m$ pairs of a change $s$ of the parameters and the change $y$ of
    their gradients, from the oldest to the newest, starting with $\gamma_t I$ where
    $\gamma_t = \langle s, y \rangle / \|y\|^2$ of the newest pair, and $\min(1, 1 /
    \|g_1\|)$ at first. The products are those of all parameters together, and
    $\langle x, y \rangle = \operatorname{Re} x^* y$ for complex ones. $\eta_t$ is 1
    without a line search.

    With a line search `apply` needs the loss and the loss as a function of the model,
    on the same data as the gradients:

    ```python
    value, grads = opt.value_and_grad(loss_fn, model)
    model, opt = opt.apply(grads, model, value=value, value_fn=loss_fn)
    ```

    The search never evaluates the point where it begins, and what it found at the point
    where it ended is kept: `opt.value_and_grad` gives that, without evaluating
    anything, as long as the loss function stays the same and `model` is what `apply`
    returned. On another batch use `equinox.filter_value_and_grad` as ever.

    A pair is used if $\langle s, y \rangle > 0$, which zoom makes sure of; Optax uses
    negative ones too, with which $H_t g_t$ may point uphill. With a line search, a pair
    is that of the two ends of one search, and so never mixes the gradients of two
    batches, as it does in optax and PyTorch. Gradients that were clipped or otherwise
    changed are not those of `value_fn`, and do not go together with a line search.

    Training at a fixed rate can be differentiated in both modes. With a line search,
    only in forward mode, as by `jax.jvp` and `jax.jacfwd`: JAX cannot differentiate a
    loop of unknown length in reverse.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$, which scales the direction before any search;
        `None`, the default, for 1.
    - `memory_size`: $m$, the number of pairs kept. The state has $2m + 1$ times the
        entries of the model, or $2m + 2$ without a line search. Default 10.
    - `scale_init_precond`: whether to start with $\gamma_t I$, and not with $I$.
        Default `True`.
    - `linesearch`: by default [`eqxopt.ZoomLineSearch`][] with its defaults; also
        [`eqxopt.BacktrackingLineSearch`][], or `None` for steps of the learning rate.

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
    """The loss that the last line search ended with, and infinity before the first."""
    step_size: Amount = eqx.field(default=None, init=False)
    r"""$\eta$ of the last step that went anywhere, with a line search."""
    evaluations: Count = eqx.field(default=None, init=False)
    """How often the last line search evaluated the loss."""

    def start(self, parameters: Parameters) -> Self:
        fixed = self.linesearch is None
        histories = [
            empty_history(param, self.memory_size, keep_param=fixed)
            for param in parameters.arrays
        ]
        new = replace_fields(
            begun(self, parameters),
            state=parameters.tree(histories),
            pairs=zero_count(),
        )
        if fixed:
            return new
        dtype = widest_real_dtype(parameters.arrays)
        return replace_fields(
            new,
            value=jnp.full((), jnp.inf, dtype),
            step_size=jnp.ones((), dtype),
            evaluations=zero_count(),
        )

    def value_and_grad(
        self, value_fn: Callable[..., Any], params: M
    ) -> tuple[Scalar, M]:
        """The loss and its gradients at `params`, as `apply` takes them, from the last
        line search if there was one, and otherwise evaluated.

        **Arguments:**

        - `value_fn`: the loss as a function of the model, the same that the last line
            search was given.
        - `params`: the model that the last `apply` returned.

        **Returns:** the loss and a tree of gradients. Those of complex parameters are
        conjugated, and so point uphill.
        """
        count_of(self)
        if in_jit():
            return _value_and_grad(self, value_fn, params)
        return _compiled_value_and_grad(self, as_pytree(value_fn), params)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        new = replace_fields(self, count=count_of(self) + 1)
        own = [grad is not None for grad in step.grads]
        if not any(own):
            return [None] * len(own), new
        states = states_of(self, step)
        kept = [state for state, here in zip(states, own) if here]
        active = _active(self, step.only(own), kept)
        if self.linesearch is None:
            changed, moves, histories = self.at_rate(active)
        else:
            loss = needed_value(self, step.value)
            loss_fn = needed_value_fn(self, step.value_fn)
            loss_at = lambda arrays: loss_fn(active.parameters.model(arrays))
            search = self.linesearch.at_step(count_of(self), self.value.dtype)
            changed, moves, histories = self.searched(search, active, loss, loss_at)
        updates: Leaves = [None] * len(own)
        fill(updates, own, moves)
        fill(states, own, histories)
        state = state_tree(step.parameters, states)
        return updates, replace_fields(new, state=state, **changed)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays

    def at_rate(self, now: "_Active") -> Made:
        """A step of the learning rate. What it does to the gradients is seen in the
        next."""
        wide = [own_copy(array) for array in now.arrays]
        changes = [
            Change(array - cast(Array, history.param), grad - history.grad)
            for array, grad, history in zip(wide, now.grads, now.histories)
        ]
        histories, pairs = self.remember(now.histories, changes, count_of(self) > 0)
        updates = now.directions(histories, pairs, self.scale_init_precond)
        histories = [
            history._replace(grad=grad, param=array)
            for history, grad, array in zip(histories, now.grads, wide)
        ]
        return {"pairs": pairs}, updates, histories

    def searched(
        self,
        search: AbstractLineSearch,
        now: "_Active",
        loss: Scalar,
        loss_at: Callable[..., Any],
    ) -> Made:
        """A step that the line search finds, and what it does to the gradients."""
        dtype = self.value.dtype
        directions = now.directions(now.histories, self.pairs, self.scale_init_precond)

        def line(step_size: Scalar) -> Any:
            updates = _scaled(directions, step_size)
            value, pull_back = jax.vjp(loss_at, _moved(now.arrays, updates))

            def gradient() -> Any:
                (grads,) = pull_back(jnp.ones_like(value))
                grads = [_uphill(grad) for grad in grads]
                return inner_products(directions, grads).astype(dtype), grads

            return value.astype(dtype), gradient

        start = Point(
            step_size=jnp.zeros((), dtype),
            value=loss.astype(dtype),
            slope=inner_products(directions, now.grads).astype(dtype),
        )
        end, grads, evaluations = search.search(line, start, now.grads, self.step_size)
        updates = _scaled(directions, end.step_size)
        changes = [
            Change(own_copy(new) - own_copy(old), new_grad - grad)
            for new, old, new_grad, grad in zip(
                _moved(now.arrays, updates), now.arrays, grads, now.grads
            )
        ]
        went = end.step_size > 0
        histories, pairs = self.remember(now.histories, changes, went)
        histories = [
            history._replace(grad=grad) for history, grad in zip(histories, grads)
        ]
        changed = {
            "pairs": pairs,
            "value": end.value,
            "step_size": jnp.where(went, end.step_size, self.step_size),
            "evaluations": evaluations,
        }
        return changed, updates, histories

    def remember(
        self, histories: list[History], changes: list[Change], known: Bool[Array, ""]
    ) -> tuple[list[History], Int[Array, ""]]:
        """The histories with a pair of changes, if these are `known` and tell of
        curvature, and how many pairs that makes."""
        store = known & is_curved(changes)
        place = self.pairs % self.memory_size
        new = [remembered(h, x, place, store) for h, x in zip(histories, changes)]
        return new, plus_one_if(store, self.pairs)


class _Active(NamedTuple):
    """The parameters that have a gradient, and what is known of each."""

    parameters: Parameters
    arrays: Arrays
    grads: Arrays
    histories: list[History]
    rates: list[Scalar]

    def directions(
        self, histories: list[History], pairs: Int[Array, ""], scale_identity: bool
    ) -> Arrays:
        r"""$-\alpha H g$, from this many pairs."""
        vectors = preconditioned(
            histories, self.grads, pairs - 1, scale_identity=scale_identity
        )
        return [times(x, -rate) for x, rate in zip(vectors, self.rates)]


def _active(optimizer: LBFGS, step: Step, states: list[Any]) -> _Active:
    parameters = step.parameters
    rates = []
    for rule, param in zip(rules(optimizer, parameters), parameters.arrays):
        dtype = real_dtype(compute_dtype(param.dtype))
        rate = rule.learning_rate
        rates.append(jnp.ones((), dtype) if rate is None else rate)
    grads = [grad for grad in wide_gradients(step) if grad is not None]
    return _Active(parameters, parameters.arrays, grads, states, rates)


def _scaled(directions: Arrays, step_size: Scalar) -> Arrays:
    return [_scale(direction, step_size) for direction in directions]


@once_per_shape
def _scale(direction: Leaf, step_size: Scalar) -> Leaf:
    # A direction may be infinite where no step is made.
    moved = times(direction, step_size)
    return jnp.where(step_size > 0, moved, no_update(direction))


def _moved(arrays: Arrays, updates: Arrays) -> Arrays:
    return moved(arrays, list(updates))


def _uphill(grad: Leaf) -> Leaf:
    """A gradient of JAX as `apply` takes it: that of complex numbers conjugated."""
    return jnp.conj(grad).astype(compute_dtype(grad.dtype))


def _value_and_grad(
    optimizer: LBFGS, value_fn: Callable[..., Any], params: PyTree
) -> tuple[Scalar, PyTree]:
    parameters = Parameters(params)
    states = kept_states(optimizer, parameters)
    dtype = widest_real_dtype(parameters.arrays)

    def evaluated() -> tuple[Scalar, list[Any]]:
        loss_fn = needed_value_fn(optimizer, value_fn)
        loss = lambda arrays: loss_fn(parameters.model(arrays))
        value, grads = jax.value_and_grad(loss)(parameters.arrays)
        return value.astype(dtype), [_uphill(grad) for grad in grads]

    if optimizer.linesearch is None:
        value, grads = evaluated()
    else:
        kept = optimizer.value, [history.grad for history in states]
        value, grads = jax.lax.cond(
            jnp.isfinite(optimizer.value), lambda: kept, evaluated
        )
    return value, parameters.tree(grads)


_compiled_value_and_grad = eqx.filter_jit(_value_and_grad)
