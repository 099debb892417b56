"""The contract of transforms: gradients in, updates out."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from .._compile.staging import in_jit
from .._fields import at_step, PerParameter
from .._number import check_fields
from .._places import on_their_mesh
from .._tree import Parameters, replace_fields, with_own_arrays
from .._types import Leaves, Self
from .nested import (
    FieldsMeta,
    hyperparameter_names,
    inner_transforms,
    with_changes,
)
from .show import completions, show
from .spread import placed_like, settled
from .states import check_alike, ids_in_stacks, States
from .step import checked_step, needed_residual_fn, needed_value_fn, Step


T = TypeVar("T", bound="AbstractTransform")
V = TypeVar("V")


class AbstractTransform(eqx.Module, metaclass=FieldsMeta):
    """Turns gradients into updates, and carries the hyperparameters and the state that
    this takes.

    A transform is immutable. Before `init` it has only its hyperparameters; `init`
    returns one that fits a model, and every `update` returns its successor.

    A subclass writes `start` and `advance`, which are given flat parameters and checked
    gradients. For most rules there is a base class that writes these two.
    """

    uses_value_fn: ClassVar[bool] = False
    """Whether `advance` itself calls `value_fn`, rather than passing it on to inner
    transforms."""
    uses_residual_fn: ClassVar[bool] = False
    """The same of `residual_fn`."""
    per_example: ClassVar[bool] = False
    """Whether gradients come for each example, along a leading axis."""
    keeps_small_updates: ClassVar[bool] = False
    """Whether the updates of a bfloat16 or float16 parameter count even if they are too
    small to change it."""
    passes_gradients: ClassVar[bool] = False
    """Whether gradients go on to the optimizer inside as they are, and nothing else
    uses them. Then `LossScaling` may be inside."""
    count: Int[Array, ""] | None = eqx.field(default=None, init=False)
    """The number of updates made, or `None` before `init`."""
    kept: PyTree = eqx.field(default=None, init=False)
    """What `state` shows, as it is kept: small parameters of one shape share arrays."""

    def __check_init__(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        return show(self, inner_transforms(self))

    def __dir__(self) -> list[str]:
        return completions(self)

    @property
    def state(self) -> PyTree:
        """A tree of the model's shape with each parameter's own state at its place, or
        `None` before `init`.

        It is made when it is read. To change it, give another one to `with_state`.
        """
        return self.kept.tree() if isinstance(self.kept, States) else self.kept

    @abc.abstractmethod
    def start(self, parameters: Parameters) -> Self:
        """This transform with a fresh state for `parameters`."""

    @abc.abstractmethod
    def advance(self, step: Step) -> tuple[Leaves, Self]:
        """The update of each parameter, `None` where there is none, and the next
        transform."""

    def init(self, params: PyTree, *, in_stacks: bool = True) -> Self:
        """This transform with a fresh state for `params`, a model or any pytree.

        Parameters are the inexact arrays; everything else in `params` is ignored. The
        new transform has arrays of its own, so each may be donated: one recipe starts
        as many as you like.

        The states of small parameters of one shape share arrays, which saves time in
        every step: [state in stacks][state-in-stacks]. With `in_stacks=False` each
        parameter has arrays of its own.
        """
        parameters = Parameters(params, in_stacks=in_stacks)
        new = _owned(settled(self.start(parameters), parameters), self, params)
        return on_their_mesh(new, parameters.arrays, ids_in_stacks(new))

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
        residual_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        """The updates, which add to the parameters, and the next transform.

        The updates have the model's shape, with `None` where there is no gradient,
        and at least float32.
        """
        check_single(self, "update", "grads", "model")
        step = opened(self, grads, Parameters(params), value, value_fn, residual_fn)
        updates, new = self.advance(step)
        new = placed_like(new, self, step.parameters)
        return step.parameters.tree(updates), new

    def replace(self, **changes: Any) -> Self:
        """This transform with some hyperparameters changed and its state kept.

        A changed number never recompiles anything. A hyperparameter of an inner
        transform is changed by its name if only one has it, and otherwise by the name
        that `hyperparameters` gives it: `opt.replace(**{"SGD.momentum": 0.8})`. The new
        transform has arrays of its own: the state is copied, except inside a function
        that you compile.

        **Raises:** a `TypeError` for an unknown name or one that several inner
        transforms have, a `ValueError` for a value out of range. The choice of a
        function for each parameter is checked in the next update.
        """
        check_single(self, "replace", "learning_rate=rate")
        return _owned(with_changes(self, changes), self)

    def with_state(self, state: PyTree) -> Self:
        """This transform with another state, a tree like the property `state`.

        The state of one layer starts again with

        ```python
        fresh = opt.init(model).state.layers[0]
        opt = opt.with_state(eqx.tree_at(lambda s: s.layers[0], opt.state, fresh))
        ```

        **Raises:** a `ValueError` if `state` has another structure, or an array in it
        another shape or dtype.
        """
        count_of(self)
        check_single(self, "with_state", "state")
        check_alike(type(self).__name__, state, self.state)
        new = self.kept.like(state) if isinstance(self.kept, States) else state
        return _owned(replace_fields(self, kept=new), self, state)

    def hyperparameters(self) -> dict[str, Any]:
        """The values by name that the next update will use, for logging.

        A choice per parameter gives a dictionary from path to value, which is empty for
        a function that `replace` has set: the next update calls it. Names of an inner
        transform come after its own: `"AdamW.learning_rate"`. Those of a population
        have its axis.
        """
        step = jnp.zeros((), jnp.int32) if self.count is None else count_of(self)
        if step.ndim:  # of a population
            return eqx.filter_vmap(type(self).hyperparameters)(self)
        values = {}
        for name in hyperparameter_names(self):
            value = getattr(self, name)
            what = f"`{type(self).__name__}.{name}`"
            if isinstance(value, PerParameter):
                values[name] = {
                    path: at_step(one, step, what) for path, one in value.by_path()
                }
            elif value is not None:
                values[name] = at_step(value, step, what)
        for label, inner in inner_transforms(self).items():
            for name, value in inner.hyperparameters().items():
                values[f"{label}.{name}"] = value
        return _owned(values, self)


def opened(
    transform: AbstractTransform,
    grads: PyTree,
    parameters: Parameters,
    value: Any,
    value_fn: Callable[..., Any] | None,
    residual_fn: Callable[..., Any] | None,
) -> Step:
    """The step of a transform that the user called."""
    count_of(transform)
    name, per_example = type(transform).__name__, transform.per_example
    if value_fn is not None:
        value_fn = needed_value_fn(transform, value_fn)
    if residual_fn is not None:
        residual_fn = needed_residual_fn(transform, residual_fn)
    functions = value_fn, residual_fn
    return checked_step(
        name, grads, parameters, value, *functions, per_example=per_example
    )


def _owned(new: V, *others: PyTree) -> V:
    """`new` with arrays of its own, none of them an array of `others`."""
    # What leaves a compiled function is new in any case.
    return new if in_jit() else with_own_arrays(new, *others)


def count_of(transform: AbstractTransform) -> Int[Array, "..."]:
    """The count of updates, which `init` starts. That of a population has axes."""
    name, count = type(transform).__name__, transform.count
    if count is None:
        raise ValueError(f"`{name}` has no state: call `opt = opt.init(model)` first")
    if type(count).__module__.startswith("flax."):
        raise TypeError(
            f"this `{name}` holds variables of flax, as in an `nnx.Optimizer`. "
            "`nnx.as_pure(optimizer.opt_state)` is the same with arrays. To change a "
            "number, assign to it: `optimizer.opt_state.learning_rate[...] = 1e-3`"
        )
    if count.dtype.kind not in "iu":
        raise TypeError(
            f"`{name}.count` has dtype {count.dtype}, but it counts. To average "
            "optimizers, average their floating-point arrays and keep the others: "
            "`jax.tree.map(lambda a, b: (a + b) / 2 if jnp.issubdtype(a.dtype, "
            "jnp.inexact) else a.copy(), opt, other)`"
        )
    return count


def check_single(transform: AbstractTransform, method: str, *arguments: str) -> None:
    """Check that a method is called on the transform of one model. `arguments` are an
    example of what it takes."""
    name, count = type(transform).__name__, transform.count
    if count is not None and count_of(transform).shape != ():
        taken = ", ".join(x.split("=")[-1] for x in arguments)
        call = f"opt.{method}({', '.join(arguments)})"
        raise ValueError(
            f"`{name}.{method}`: the count of this optimizer has shape {count.shape}, "
            "so it is a population. Map over it: `eqx.filter_vmap(lambda opt, "
            f"{taken}: {call})(opts, ...)`"
        )
