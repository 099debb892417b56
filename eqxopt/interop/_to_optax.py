"""Optimizers as optax transformations."""

import sys
from collections.abc import Callable
from typing import Any, TYPE_CHECKING

from jaxtyping import PyTree

from .._abstract.transform import AbstractTransform
from .._tree import Parameters
from ._optax import optax_module


if TYPE_CHECKING:
    from optax import GradientTransformationExtraArgs
else:
    # Optax is an extra, imported where it is used.
    GradientTransformationExtraArgs = Any


def to_optax(transform: AbstractTransform) -> GradientTransformationExtraArgs:
    """Turns an optimizer or transform into an optax gradient transformation.

    Use it wherever one of optax's own is expected: `flax.nnx.Optimizer`, flax's
    `TrainState`, `optimistix.OptaxMinimiser`, `optax.chain`, `optax.MultiSteps`.

    Its state is the initialised optimizer, with its hyperparameters, `count` and
    `eval_params`. The updates have the dtypes of the parameters, as optax requires.
    `update` passes the extra arguments `value`, `value_fn` and `residual_fn` on and
    ignores others.

    **Arguments:**

    - `transform`: any optimizer or transform, before `init`.

    **Returns:** an `optax.GradientTransformationExtraArgs`. Its `update` needs the
    parameters: `tx.update(grads, state, params)`.

    **Raises:** an `ImportError` if optax is not installed.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, optax, eqxopt
        >>> tx = eqxopt.interop.to_optax(eqxopt.SGD(0.5))
        >>> params = jnp.array([1.0, 2.0])
        >>> state = tx.init(params)
        >>> updates, state = tx.update(params, state, params)
        >>> print(optax.apply_updates(params, updates), state.count)
        [0.5 1. ] 1

        ```
    """
    optax = optax_module()
    if not isinstance(transform, AbstractTransform):
        raise TypeError(
            "`to_optax` takes an optimizer or transform of eqxopt, such as "
            f"`eqxopt.AdamW(1e-3)`, not {transform!r}"
        )

    def init(params: PyTree) -> AbstractTransform:
        return transform.init(_without_variables(params))

    def update(
        updates: PyTree,
        state: AbstractTransform,
        params: PyTree | None = None,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
        residual_fn: Callable[..., Any] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AbstractTransform]:
        del extra_args
        if params is None:
            raise ValueError(
                f"`{type(state).__name__}` needs the parameters: call "
                "`tx.update(grads, state, params)`"
            )
        parameters, bare = Parameters(params), _without_variables(params)
        updates, state = state.update(
            _without_variables(updates),
            bare,
            value=value,
            value_fn=value_fn and _of_bare(value_fn, parameters, bare),
            residual_fn=residual_fn and _of_bare(residual_fn, parameters, bare),
        )
        leaves = Parameters(bare).align(updates, "the updates")
        cast = [
            None if update is None else update.astype(param.dtype)
            for param, update in zip(parameters.arrays, leaves)
        ]
        return parameters.tree(cast), state

    return optax.GradientTransformationExtraArgs(init, update)


def _without_variables(tree: PyTree) -> PyTree:
    """`tree` with arrays in place of flax variables.

    `flax.nnx.Optimizer` passes variables to `init` and arrays to `update`. It puts each
    array of the state into a variable itself, so the state must be made from a tree
    without variables.
    """
    nnx = sys.modules.get("flax.nnx")
    # Older versions of flax call it `pure`.
    as_pure = getattr(nnx, "as_pure", None) or getattr(nnx, "pure", None)
    return tree if as_pure is None else as_pure(tree)


def _of_bare(
    function: Callable[..., Any], parameters: Parameters, bare: PyTree
) -> Callable[..., Any]:
    """`function` of the parameters as one of a tree like `bare`, which has arrays in
    place of variables."""

    def of_bare(tree: PyTree) -> Any:
        arrays = Parameters(bare).align(tree, "the parameters")
        return function(parameters.model(arrays))

    return of_bare
