"""A table of what an optimizer does to each parameter."""

import dataclasses
from collections.abc import Callable

import jax
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from ._abstract.narrow import loses_small_updates, resolution
from ._abstract.rules import rules
from ._abstract.transform import (
    AbstractTransform,
    count_of,
    inner_transforms,
    leaves_by_path,
)
from ._tree import Parameters


def describe(optimizer: AbstractTransform, model: PyTree) -> str:
    """A table with a line for each parameter: its path, shape, dtype and group, the
    learning rate of the next update, and the bytes of its state. A line has the state
    that is not of one parameter, such as the inverse Hessian of `BFGS`. Below the table
    is a note if there are parameters in bfloat16 or float16 and nothing keeps the
    updates that they are too coarse for, as [`eqxopt.MasterWeights`][] does.

    **Arguments:**

    - `optimizer`: any optimizer, after `init`.
    - `model`: the model that it trains.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"bias": jnp.ones(2), "weight": jnp.ones((2, 2))}
        >>> opt = eqxopt.Partition(
        ...     {"adam": eqxopt.Adam(1e-3), "still": eqxopt.Freeze()},
        ...     {"bias": "still", "weight": "adam"},
        ... ).init(params)
        >>> print(eqxopt.describe(opt, params))
        path        shape   dtype    group  rate   state
        ['bias']    (2,)    float32  still  -      0 B
        ['weight']  (2, 2)  float32  adam   0.001  32 B
        total       6                              32 B

        ```
    """
    count_of(optimizer)
    parameters = Parameters(model)
    _check_fit(optimizer, parameters)
    groups, rates = _groups_and_rates(optimizer, parameters)
    *state, shared = _state_bytes(optimizer, parameters)
    rows = [("path", "shape", "dtype", "group", "rate", "state")]
    for i, array in enumerate(parameters.arrays):
        shape, dtype = str(array.shape), str(array.dtype)
        size = _bytes(state[i])
        rows.append((parameters.path(i), shape, dtype, groups[i], rates[i], size))
    if shared:
        rows.append(("of all", "", "", "", "", _bytes(shared)))
    entries = sum(array.size for array in parameters.arrays)
    rows.append(("total", str(entries), "", "", "", _bytes(sum(state) + shared)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths)) for row in rows)
    notes = _notes(optimizer, parameters)
    return "\n".join([*(line.rstrip() for line in lines), *notes])


def _notes(optimizer: AbstractTransform, parameters: Parameters) -> list[str]:
    """A line for each dtype in which small updates are lost."""
    loses = loses_small_updates(optimizer, parameters)
    dtypes = {array.dtype for array, x in zip(parameters.arrays, loses) if x}
    return [
        f"{dtype} loses updates below {resolution(dtype)} of an entry: see "
        "`eqxopt.MasterWeights`"
        for dtype in sorted(dtypes, key=str)
    ]


def _check_fit(optimizer: AbstractTransform, parameters: Parameters) -> None:
    """Check that `optimizer` was initialised for these parameters."""
    start = lambda arrays: optimizer.start(parameters.exchange(arrays))
    expected = jax.eval_shape(start, parameters.arrays)
    new, old = (
        {jtu.keystr(path): x.shape for path, x in leaves_by_path(tree)}
        for tree in (expected, optimizer)
    )
    for path in new | old:
        if new.get(path) != old.get(path):
            raise ValueError(
                f"`describe`: this `{type(optimizer).__name__}` was initialised for "
                f"another model: its `{path[1:]}` has shape {old.get(path)}, and for "
                f"this model it would have {new.get(path)}"
            )


def _groups_and_rates(
    transform: AbstractTransform, parameters: Parameters
) -> tuple[list[str], list[str]]:
    """The group and the learning rate of each of `parameters`, which the transform
    trains."""
    groups, rates = [""] * len(parameters), ["-"] * len(parameters)
    if hasattr(transform, "learning_rate"):
        for i, rule in enumerate(rules(transform, parameters)):
            rate: Array | None = getattr(rule, "learning_rate", None)
            if rate is not None:
                rates[i] = f"{float(rate):.4g}"
    choose: Callable[[Parameters], list[str]] | None
    choose = getattr(transform, "groups", None)
    labels = [""] * len(parameters) if choose is None else choose(parameters)
    for label, inner in inner_transforms(transform).items():
        own = [choose is None or x == label for x in labels]
        places = [i for i, x in enumerate(own) if x]
        inside = _groups_and_rates(inner, parameters.only(own))
        for i, group, shown in zip(places, *inside):
            groups[i] = groups[i] or ".".join(filter(None, [labels[i], group]))
            rates[i] = rates[i] if shown == "-" else shown
    # A label without an inner transform is the optimizer's own rule.
    return [group or label for group, label in zip(groups, labels)], rates


def _state_bytes(transform: AbstractTransform, parameters: Parameters) -> list[int]:
    """The bytes of state of each parameter, in all fields that have the model's shape,
    and last of the arrays that belong to all."""
    index_of = parameters.index_of
    sizes = [0] * (len(parameters) + 1)
    for field in dataclasses.fields(transform):
        if field.init or field.name == "count":
            continue
        name = "state" if field.name == "kept" else field.name
        flat, _ = jtu.tree_flatten_with_path(getattr(transform, name))
        for path, leaf in flat:
            for k in range(len(path) + 1):
                if path[:k] in index_of:
                    sizes[index_of[path[:k]]] += leaf.nbytes
                    break
            else:
                sizes[-1] += leaf.nbytes if leaf.ndim else 0  # numbers are not worth it
    for inner in inner_transforms(transform).values():
        inner_sizes = _state_bytes(inner, parameters)
        sizes = [size + more for size, more in zip(sizes, inner_sizes)]
    return sizes


def _bytes(size: float | int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
