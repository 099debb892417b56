"""The loss function of a training step: how it is called, and what it returns."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray, PyTree

from .._abstract.step import as_residuals, half_squares
from .._compile.captured import Closure
from .._types import Scalar, Vector


class Given(NamedTuple):
    """What a loss function is given beside the model."""

    batch: tuple[Any, ...]
    # Keyword arguments, which are no part of the batch.
    others: dict[str, Any]
    key: PRNGKeyArray | None


class Returned(NamedTuple):
    """What a loss function returns, and `None` for what it does not."""

    loss: Scalar
    state: PyTree
    aux: Any
    residuals: Vector | None = None
    """If they were returned in place of the loss, which is half the sum of their
    squares."""


def called(
    loss_fn: Callable[..., Any],
    has_aux: bool,
    model: PyTree,
    state: PyTree,
    given: Given,
    residuals: bool = False,
) -> Returned:
    """The loss function's results, whose number and shapes are as they should be. With
    `residuals` it returns these in place of the loss."""
    if isinstance(loss_fn, Closure):
        loss_fn = loss_fn.restored()
    args = [model]
    if state is not None:
        # A copy: an `equinox.nn.State` can be read once, and some optimizers call the
        # loss function again.
        args.append(jtu.tree_map(lambda x: x, state))
    args.extend(given.batch)
    keywords = given.others if given.key is None else given.others | {"key": given.key}
    _check_call(loss_fn, args, keywords, state is not None)
    result = loss_fn(*args, **keywords)
    if residuals and state is None and not has_aux:
        result = (result,)  # a tuple is a tree of residuals
    loss, new_state, aux = _parts(result, has_aux, state, residuals)
    if residuals:
        _check_state(state, new_state)
        vector = as_residuals("with `residuals=True` the loss function", loss)
        return Returned(half_squares(vector), new_state, aux, vector)
    if not isinstance(loss, jax.Array | float | int) or jnp.shape(loss) != ():
        what = (
            f"an array of shape {jnp.shape(loss)}"
            if eqx.is_array(loss)
            else f"a `{type(loss).__name__}`"
        )
        raise ValueError(f"the loss function must give a scalar, but gave {what}")
    _check_state(state, new_state)
    return Returned(jnp.asarray(loss), new_state, aux)


def check_key(caller: str, key: Any) -> None:
    if isinstance(key, int):
        raise TypeError(f"{caller}: `key` is a random key: `jax.random.key({key})`")


def takes_key(loss_fn: Callable[..., Any]) -> bool:
    """Whether the loss function has a parameter of that name."""
    try:
        parameters = inspect.signature(loss_fn).parameters.values()
    except (TypeError, ValueError):  # a builtin, which says nothing of itself
        return False
    return any(p.name == "key" or p.kind is p.VAR_KEYWORD for p in parameters)


def _check_call(
    loss_fn: Callable[..., Any],
    args: list[Any],
    keywords: dict[str, Any],
    has_state: bool,
) -> None:
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        names = ["model", *["state"] * has_state]
        batch = len(args) - len(names)
        parts = f"{batch} of the batch" if batch else "none of a batch"
        named = "".join(f", `{name}=`" for name in keywords)
        raise TypeError(
            f"the loss function takes `{signature}`, but is called with "
            f"{' and '.join(f'`{name}`' for name in names)}, {parts}{named}: {error}"
            + ". Give `key=`"
            * str(error).endswith("'key'")
        ) from None
    if any(isinstance(x, eqx.nn.State) for x in args[1 + has_state :]):
        raise TypeError(
            "there is an `equinox.nn.State` in the batch: give it as `state=state`"
        )


def _parts(
    result: Any, has_aux: bool, state: PyTree, residuals: bool
) -> tuple[Any, Any, Any]:
    first = "residuals" if residuals else "loss"
    names = [first, *["state"] * (state is not None), *["aux"] * has_aux]
    parts = result if isinstance(result, tuple) else (result,)
    if len(parts) != len(names):
        expected = f"({', '.join(names)})" if len(names) > 1 else "the loss alone"
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else "one value"
        hint = "" if has_aux else ". With `has_aux=True` it gives `aux` as well"
        raise TypeError(f"the loss function must give {expected}, not {got}{hint}")
    named = dict(zip(names, parts))
    return named[first], named.get("state"), named.get("aux")


def _check_state(old: PyTree, new: PyTree) -> None:
    if old is None:
        return
    if jtu.tree_structure(old) != jtu.tree_structure(new):
        raise ValueError(
            "the loss function must give a state of the structure that it was given"
        )
    for (path, x), y in zip(jtu.tree_leaves_with_path(old), jtu.tree_leaves(new)):
        if not eqx.is_array(x) and (eqx.is_array(y) or x is not y and x != y):
            raise ValueError(
                f"the loss function changes the state at {jtu.keystr(path)}, which is "
                f"{x!r} and no array. Make it one, such as `jnp.asarray({x!r})`"
            )
        if eqx.is_array(x) and (x.shape, x.dtype) != (jnp.shape(y), jnp.result_type(y)):
            raise ValueError(
                f"the loss function changes the state at {jtu.keystr(path)}: from "
                f"{x.dtype}{list(x.shape)} to {jnp.result_type(y)}{list(jnp.shape(y))}"
            )
