"""The points of a sweep, and the optimizers made from them."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._abstract.optimizer import AbstractOptimizer
from .._tree import is_key, static_key, static_leaves


Point = dict[str, Any]
Points = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Make = Callable[..., AbstractOptimizer]


def listed(points: Points) -> list[Point]:
    """The points one by one, each with the same names."""
    if isinstance(points, Mapping):
        names = [*points]
        for name, values in points.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise TypeError(
                    f"`sweep`: `points[{name!r}]` is {values!r}, but should be a list "
                    "of values. A value that is the same in all runs belongs in `make`"
                )
        axes = [_plain(values) for values in points.values()]
        found = [dict(zip(names, point)) for point in itertools.product(*axes)]
    else:
        found = [dict(point) for point in points]
    if not found or not found[0]:
        raise ValueError("`sweep`: there are no points")
    for i, point in enumerate(found):
        if point.keys() != found[0].keys():
            raise ValueError(
                f"`sweep`: point {i} has {sorted(point)}, but point 0 has "
                f"{sorted(found[0])}: all points need the same names"
            )
    return [{k: _number(v) for k, v in point.items()} for point in found]


def _plain(values: Iterable[Any]) -> list[Any]:
    """As Python's numbers, which print well."""
    if isinstance(values, np.ndarray | jax.Array) and not is_key(values):
        return np.asarray(values).tolist()
    return [*values]


def _number(value: Any) -> Any:
    is_scalar = isinstance(value, np.generic | np.ndarray | jax.Array)
    if is_scalar and not is_key(value) and np.ndim(value) == 0:
        return np.asarray(value).item()
    return value


def shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shown_value(value)}" for name, value in point.items())


def shown_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return getattr(value, "__name__", None) or str(value)


def optimizer_at(make: Make, point: Point) -> AbstractOptimizer:
    if isinstance(make, AbstractOptimizer):
        raise TypeError(
            "`sweep`: `make` must be a function from a point to an optimizer, such as "
            f"`eqxopt.AdamW` itself, not {make!r}"
        )
    try:
        opt = make(**point)
    except Exception as error:
        raise ValueError(
            f"`sweep`: `make` cannot build an optimizer for {shown(point)}: {error}"
        ) from error
    if not isinstance(opt, AbstractOptimizer):
        raise TypeError(
            f"`sweep`: `make` must return an optimizer, such as `eqxopt.AdamW(1e-3)`, "
            f"but returned {opt!r} for {shown(point)}"
        )
    return opt


class Stack(NamedTuple):
    """Optimizers that differ in nothing but their numbers: one program fits all."""

    points: list[int]
    opts: AbstractOptimizer
    """With the numbers of all along a first axis."""


def stacked(opts: Sequence[AbstractOptimizer]) -> list[Stack]:
    alike: dict[Any, list[int]] = {}
    for i, opt in enumerate(opts):
        leaves, treedef = jtu.tree_flatten(opt)
        shapes = tuple((x.shape, x.dtype) for x in leaves if eqx.is_array(x))
        static = static_key(static_leaves(leaves))
        alike.setdefault((treedef, static, shapes), []).append(i)
    return [
        Stack(points, jtu.tree_map(_joined, *[opts[i] for i in points]))
        for points in alike.values()
    ]


def _joined(*leaves: Any) -> Any:
    first = leaves[0]
    if not eqx.is_array(first):
        return first
    if is_key(first):
        return jnp.stack(leaves)
    return jax.device_put(np.stack(jax.device_get(leaves)))


def spread(scores: np.ndarray) -> np.ndarray:
    """The standard deviation over seeds, NaN where one diverged."""
    with np.errstate(invalid="ignore"):
        return np.std(scores, axis=-1)
