"""What wrappers share: how they read their own fields, and how they choose between
what was and what comes."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TYPE_CHECKING, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Inexact, Int

from ._dtype import compute_dtype
from ._hyperparameter import at_step, PerParameter
from ._optimizer import AbstractOptimizer, AbstractTransform, count_of
from ._tree import array_leaves, Parameters


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# The types of fields that `init` fills.
if TYPE_CHECKING:
    Count: TypeAlias = Int[Array, ""]
    Amount: TypeAlias = Float[Array, ""]
else:
    Count: TypeAlias = Int[Array, ""] | None
    Amount: TypeAlias = Float[Array, ""] | None


def as_optimizer(x: AbstractOptimizer) -> AbstractOptimizer:
    """A field converter: what a wrapper wraps."""
    if not isinstance(x, AbstractOptimizer):
        raise TypeError(
            f"a wrapper takes an optimizer first, such as `eqxopt.SGD(0.1)`, not {x!r}"
        )
    return x


def scalar_of(transform: AbstractTransform, name: str) -> Float[Array, ""]:
    """The hyperparameter `name` at this step, one for the whole model."""
    what = f"`{type(transform).__name__}.{name}`"
    value = getattr(transform, name)
    if isinstance(value, PerParameter):
        raise TypeError(
            f"{what} is one number for the whole model, or a schedule: it cannot be "
            "chosen for each parameter"
        )
    return at_step(value, count_of(transform), what)


def reached(
    transform: AbstractTransform, count: Int[Array, ""], name: str
) -> Bool[Array, ""]:
    """Whether `count` is at least the hyperparameter `name` at this step."""
    value = scalar_of(transform, name)
    return count.astype(value.dtype) >= value


def states_of(
    transform: AbstractTransform,
    parameters: Parameters,
    grads: Sequence[Any],
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> list[Any]:
    """The transform's own state of each parameter, known to fit where there is a
    gradient: its first array has the parameter's shape, or that of `shapes`."""
    name = type(transform).__name__
    states = parameters.align(transform.state, f"`{name}`: the optimizer's states")
    for i, (param, state, grad) in enumerate(zip(parameters.arrays, states, grads)):
        if grad is None:
            continue
        if state is None:
            raise ValueError(
                f"`{name}`: {parameters.path(i)} was no parameter when `init` saw the "
                "model. Call `opt = opt.init(model)` again."
            )
        expected = param.shape if shapes is None else shapes[i]
        shape = next((x.shape for x in array_leaves(state)), expected)
        if shape != expected:
            raise ValueError(
                f"`{name}`: the state at {parameters.path(i)} does not fit the "
                f"parameter of shape {param.shape}: it has shape {shape}. Call "
                "`opt = opt.init(model)` again."
            )
    return states


def zero_count() -> Int[Array, ""]:
    return jnp.zeros((), jnp.int32)


def plus_one_if(condition: Bool[Array, ""], count: Int[Array, ""]) -> Int[Array, ""]:
    return count + condition.astype(count.dtype)


def own_copy(param: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """`param` in its compute dtype and in a buffer of its own."""
    return jnp.array(param, dtype=compute_dtype(param.dtype), copy=True)


def no_update(x: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """An update that leaves every bit of a parameter: -0.0, because adding 0.0 makes
    a parameter of -0.0 positive."""
    return jnp.full_like(x, complex(-0.0, -0.0) if jnp.iscomplexobj(x) else -0.0)


def select(condition: Bool[Array, ""], new: T, old: T) -> T:
    """`new` where the condition holds and `old` elsewhere, leaf by leaf.

    Both are evaluated, and so it works under `jax.vmap` at no other cost. The
    containers are those of `new`: a checkpoint may have given `old` others.
    """
    leaves, treedef = jtu.tree_flatten(new)
    return treedef.unflatten(
        [jnp.where(condition, a, b) for a, b in zip(leaves, jtu.tree_leaves(old))]
    )


def all_finite(arrays: Iterable[Inexact[Array, "..."] | None]) -> Bool[Array, ""]:
    """Whether no array has an infinity or a NaN."""
    each = [jnp.all(jnp.isfinite(x)) for x in arrays if x is not None]
    if not each:
        return jnp.asarray(True)
    # The root keeps the compiler from merging all of `each` into every place where the
    # answer is used, which for 600 parameters makes 4 seconds into 4 minutes: what
    # costs little is repeated, and a root is thought to cost much.
    return jnp.sqrt(jnp.any(~jnp.stack(each)).astype(jnp.float32)) == 0


def summed(terms: Sequence[T], dtype: jnp.dtype) -> T:
    """The sums of `terms`, trees of scalars of one structure, of which there is at
    least one."""
    rows = [
        jnp.stack([x.astype(dtype) for x in jtu.tree_leaves(term)]) for term in terms
    ]
    # A sum costs little, and so a compiler makes it anew in every place where it is
    # used: minutes of work for 600 parameters. A product of matrices it makes once.
    ones = jnp.ones(len(rows), dtype)
    sums = jnp.matmul(ones, jnp.stack(rows), precision=jax.lax.Precision.HIGHEST)
    return jtu.tree_structure(terms[0]).unflatten(jnp.unstack(sums))


def per_leaf(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, of the arrays of one parameter, compiled on its own so that
    parameters of equal shape are traced once."""

    @jax.jit
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # A complex parameter meets real hyperparameters.
        complex_ = any(map(jnp.iscomplexobj, jtu.tree_leaves((args, kwargs))))
        mode = "standard" if complex_ else jax.config.jax_numpy_dtype_promotion  # pyright: ignore
        with jax.numpy_dtype_promotion(mode):
            return function(*args, **kwargs)

    return run
