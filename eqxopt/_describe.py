"""A table of what an optimizer does to each parameter."""

import dataclasses
from collections.abc import Callable

import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from ._abstract.optimizer import AbstractTransform, inner_transforms
from ._abstract.rules import rules
from ._tree import Parameters


def describe(optimizer: AbstractTransform, model: PyTree) -> str:
    """A table with a line for each parameter: its path, shape, dtype and group, the
    learning rate of the next update, and the bytes of its state.

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
    parameters = Parameters(model)
    every_one = [True] * len(parameters)
    groups, rates = _groups_and_rates(optimizer, parameters, every_one)
    state = _state_bytes(optimizer, parameters)
    rows = [("path", "shape", "dtype", "group", "rate", "state")]
    for i, array in enumerate(parameters.arrays):
        shape, dtype = str(array.shape), str(array.dtype)
        size = _bytes(state[i])
        rows.append((parameters.path(i), shape, dtype, groups[i], rates[i], size))
    entries = sum(array.size for array in parameters.arrays)
    rows.append(("total", str(entries), "", "", "", _bytes(sum(state))))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _groups_and_rates(
    transform: AbstractTransform, parameters: Parameters, trains: list[bool]
) -> tuple[list[str], list[str]]:
    """The group and the learning rate of each parameter that the transform `trains`."""
    groups, rates = [""] * len(parameters), ["-"] * len(parameters)
    if hasattr(transform, "learning_rate"):
        for i, rule in enumerate(rules(transform, parameters)):
            rate: Array | None = getattr(rule, "learning_rate", None)
            if trains[i] and rate is not None:
                rates[i] = f"{float(rate):.4g}"
    choose: Callable[[Parameters], list[str]] | None
    choose = getattr(transform, "groups", None)
    labels = choose and choose(parameters)
    for label, inner in inner_transforms(transform).items():
        inner_trains = [
            x and (labels is None or labels[i] == label) for i, x in enumerate(trains)
        ]
        inner_groups, inner_rates = _groups_and_rates(inner, parameters, inner_trains)
        for i in (i for i, x in enumerate(inner_trains) if x):
            names = ["" if labels is None else labels[i], inner_groups[i]]
            groups[i] = groups[i] or ".".join(filter(None, names))
            rates[i] = inner_rates[i] if inner_rates[i] != "-" else rates[i]
    if labels is not None:
        # A label without an inner transform is the optimizer's own rule.
        groups = [groups[i] or (labels[i] if x else "") for i, x in enumerate(trains)]
    return groups, rates


def _state_bytes(transform: AbstractTransform, parameters: Parameters) -> list[int]:
    """The bytes of state of each parameter, in all fields that have the model's
    shape."""
    index_of = {path: i for i, path in enumerate(parameters.key_paths)}
    sizes = [0] * len(parameters)
    for field in dataclasses.fields(transform):
        if field.init or field.name == "count":
            continue
        flat, _ = jtu.tree_flatten_with_path(getattr(transform, field.name))
        for path, leaf in flat:
            for k in range(len(path) + 1):
                if path[:k] in index_of:
                    sizes[index_of[path[:k]]] += leaf.nbytes
                    break
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
