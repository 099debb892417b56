"""Optax transformations as optimizers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TYPE_CHECKING, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree, Shaped

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun
from .._abstract.step import Step
from .._abstract.transform import AbstractTransform, count_of
from .._dtype import compute_dtype
from .._math import plus_one
from .._sharding import placed_with
from .._tree import KeyPath, Parameters, replace_fields, show_path
from .._types import AnyLeaf, Leaf, Leaves, Self
from ._optax import optax_module


if TYPE_CHECKING:
    from optax import GradientTransformation
else:
    # Optax is an extra, imported where it is used.
    GradientTransformation = Any

M = TypeVar("M")


def _as_transformation(tx: Any) -> GradientTransformation:
    optax_module()
    if isinstance(tx, AbstractTransform):
        raise TypeError(
            f"`FromOptax` takes an optax transformation: `{type(tx).__name__}` is one "
            "of eqxopt's already, to be used as it is"
        )
    if hasattr(tx, "gradient_transformation"):  # optax.MultiSteps
        tx = tx.gradient_transformation()
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            f"`FromOptax` takes an optax transformation, such as `optax.adam(1e-3)`, "
            f"not {tx!r}"
        )
    return tx


class FromOptax(AbstractOptimizer):
    """Turns an optax transformation into an optimizer.

    Like every optimizer here, it takes the whole model, keeps dtypes and weak types,
    and consists of arrays only: plain numbers in optax's state become arrays. Optax
    sees parameters and gradients in at least float32.

    The numbers inside an optax transformation are constants, not hyperparameters:
    `hyperparameters()` is empty, and `replace` can only exchange the transformation.
    `optax.inject_hyperparams` puts them into the state. Then
    `equinox.tree_at(lambda opt: opt.state.hyperparams["learning_rate"], opt, rate)`
    changes one.

    A parameter whose gradient is `None` does not change, bit for bit. Neither does its
    entry in any part of optax's state that has the model's shape. Optax itself sees a
    gradient of 0 there, so what it keeps for the whole model, such as a count, moves
    on.

    The transformation is a static field, compared by identity. Make it once: a second
    `optax.adam(1e-3)` compiles again.

    **Arguments:**

    - `tx`: an `optax.GradientTransformation`, or an `optax.MultiSteps`. If it takes
        extra arguments, it is given `grad`, and also `value` and `value_fn` if `apply`
        is.

    **Raises:** a `ValueError` if `tx` needs `value` or `value_fn` and `apply` is not
    given it; an `ImportError` if optax is not installed.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, optax, eqxopt
        >>> params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
        >>> opt = eqxopt.interop.FromOptax(optax.sgd(0.5)).init(params)
        >>> params, opt = opt.apply(params, params)
        >>> print(params["a"], params["b"])
        [0.5 1. ] 1.5

        ```
    """

    uses_value_fn = True

    tx: GradientTransformation = eqx.field(converter=_as_transformation, static=True)

    def start(self, parameters: Parameters) -> Self:
        state = self.fresh_state(_wide(parameters, parameters.arrays))
        state = _map_at_parameters(
            lambda i, x: placed_with(parameters.arrays[i], x), parameters, state
        )
        return replace_fields(begun(self, parameters), kept=state)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        advanced = replace_fields(self, count=plus_one(count_of(self)))
        if not parameters.arrays:
            # An empty tree may be None, which to optax means that no parameters were
            # given.
            return [], advanced
        present = [grad is not None for grad in step.grads]
        filled = [
            jnp.zeros_like(param) if grad is None else grad
            for param, grad in zip(parameters.arrays, step.grads)
        ]
        old = self.fitting_state(parameters)
        tree, new = self.call(
            _wide(parameters, filled),
            old,
            _wide(parameters, parameters.arrays),
            value=step.value,
            value_fn=step.value_fn
            and _loss_of_wide(step.value_fn, parameters, present),
        )
        new = jtu.tree_map(lambda x, old: jnp.asarray(x, old.dtype), new, old)
        if not all(present):
            new = _map_at_parameters(
                lambda i, new, old: new if present[i] else old, parameters, new, old
            )
        updates = [
            _widen_to(update, param) if has_grad and update is not None else None
            for param, update, has_grad in zip(
                parameters.arrays, parameters.align(tree, "the updates"), present
            )
        ]
        # Keep the state's own containers: a checkpoint may have restored others than
        # optax's.
        state = jtu.tree_structure(self.state).unflatten(jtu.tree_leaves(new))
        return updates, replace_fields(advanced, kept=state)

    def fresh_state(self, params: PyTree) -> PyTree:
        """Optax's state for `params`: strongly typed arrays, each in its own buffer."""
        with _as_optax_expects():
            state = self.tx.init(params)
        return jtu.tree_map_with_path(_as_array, state)

    def fitting_state(self, parameters: Parameters) -> PyTree:
        """The state in optax's own containers, checked to fit `parameters`."""
        expected = jax.eval_shape(
            self.fresh_state, _wide(parameters, parameters.arrays)
        )
        needed, kept = _shapes(expected), _shapes(self.state)
        if needed != kept:
            differing = [x for x in needed if x not in kept]
            differing += [x for x in kept if x not in needed] + kept
            path, shape = differing[0]
            raise ValueError(
                f"`FromOptax`: the state does not fit the model: it differs at {path}, "
                f"of shape {shape}. Call `opt = opt.init(model)` again."
            )
        return jtu.tree_structure(expected).unflatten(jtu.tree_leaves(self.state))

    def call(
        self, grads: PyTree, state: PyTree, params: PyTree, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        """Optax's update, with the extra arguments that are not `None`."""
        given = {name: x for name, x in extra_args.items() if x is not None}
        update = optax_module().with_extra_args_support(self.tx).update
        try:
            with _as_optax_expects():
                return update(grads, state, params, grad=grads, **given)
        except TypeError as error:
            missing = [
                name
                for name, x in extra_args.items()
                if x is None and f"'{name}'" in str(error)
            ]
            # Python's own words for a missing argument.
            if missing and "required keyword-only argument" in str(error):
                arguments = ", ".join(f"{name}=..." for name in missing)
                raise ValueError(
                    f"`FromOptax`: {error}. Call `opt.apply(grads, model, {arguments})`"
                ) from None
            raise

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays


def _wide(parameters: Parameters, arrays: Sequence[AnyLeaf]) -> PyTree:
    """The tree that optax sees: `arrays` in the compute dtypes of the parameters, and
    `None` where the model has something else."""
    return parameters.tree(
        [_widen_to(x, param) for x, param in zip(arrays, parameters.arrays)]
    )


def _widen_to(x: Leaf, param: AnyLeaf) -> Leaf:
    return x.astype(compute_dtype(param.dtype))


def _loss_of_wide(
    value_fn: Callable[..., Any], parameters: Parameters, present: Sequence[bool]
) -> Callable[..., Any]:
    """The loss as a function of the tree that optax sees. Parameters without gradient
    keep their values."""

    def loss_of_wide(wide: PyTree) -> Any:
        arrays = [
            x.astype(param.dtype) if has_grad else param
            for x, param, has_grad in zip(
                parameters.align(wide, "the parameters"), parameters.arrays, present
            )
        ]
        return value_fn(parameters.model(arrays))

    return loss_of_wide


def _as_array(path: KeyPath, x: Any) -> Shaped[Array, "..."]:
    if not eqx.is_array_like(x):
        raise TypeError(
            f"`FromOptax`: optax's state has {x!r} at {show_path(path)}, which is no "
            "array or number"
        )
    return jnp.array(x, dtype=jnp.result_type(x), copy=True)


def _shapes(state: PyTree) -> list[tuple[str, tuple[int, ...]]]:
    """The path and shape of each leaf. A path has names and positions only, whatever
    the kinds of the containers."""
    flat, _ = jtu.tree_flatten_with_path(state)
    return [
        (jtu.keystr(path, simple=True, separator="."), leaf.shape)
        for path, leaf in flat
    ]


def _map_at_parameters(
    function: Callable[..., Array], parameters: Parameters, tree: PyTree, *rest: PyTree
) -> PyTree:
    """Replace the leaf of the `i`-th parameter by `function(i, leaf, *leaves_of_rest)`
    in every subtree of `tree` that has the model's shape."""
    treedef = parameters.treedef
    indices = treedef.flatten_up_to(parameters.tree(range(len(parameters))))

    def is_like_model(x: Any) -> bool:
        try:
            entries = treedef.flatten_up_to(x)
        except ValueError:
            return False
        # Where a parameter is masked out, optax has an empty node.
        return all(jtu.all_leaves([e]) or not jtu.tree_leaves(e) for e in entries)

    def visit(x: Any, *others: Any) -> Any:
        if not is_like_model(x):
            return x
        columns = zip(indices, *(treedef.flatten_up_to(y) for y in (x, *others)))
        return treedef.unflatten(
            [
                leaf
                if i is None or not jtu.tree_leaves(leaf)
                else function(i, leaf, *y)
                for i, leaf, *y in columns
            ]
        )

    return jtu.tree_map(visit, tree, *rest, is_leaf=is_like_model)


@contextlib.contextmanager
def _as_optax_expects() -> Iterator[None]:
    # Optax relies on JAX's default promotion, even if the user has set a stricter one.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
