"""What a transform looks like: its `repr` and its completions."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax.tree_util as jtu

from .._fields import HyperparameterIn, PerParameter
from .._number import is_default, show_shape, show_value
from .._schedule.abstract import AbstractSchedule


WIDTH = 88


def show(transform: Any, inner: Mapping[str, Any]) -> str:
    """The class, its hyperparameters and options with their values, and its state as
    shapes."""
    inner_objects = {id(x) for x in inner.values()}
    parts = []
    for field in dataclasses.fields(transform):
        value = getattr(transform, field.name)
        if field.name == "transforms":
            parts += [repr(x) for x in value]
        elif isinstance(value, dict) and field.init:
            parts.append(f"{field.name}={value!r}")
        elif id(value) in inner_objects:
            label = "" if field.name == "optimizer" else f"{field.name}="
            parts.append(f"{label}{value!r}")
        elif field.init and not _is_default(field, value):
            parts.append(f"{field.name}={_shown(value)}")
    if transform.count is not None:
        parts.append(f"count={show_value(transform.count)}")
        parts += _state(transform.state)
    return _call(type(transform).__name__, parts)


def show_search(search: Any) -> str:
    """The class of a line search, its hyperparameters and its options."""
    fields = ((f, getattr(search, f.name)) for f in dataclasses.fields(search))
    parts = [f"{f.name}={_shown(x)}" for f, x in fields if not _is_default(f, x)]
    return _call(type(search).__name__, parts)


def _call(name: str, parts: list[str]) -> str:
    line = f"{name}({', '.join(parts)})"
    if len(line) <= WIDTH and "\n" not in line:
        return line
    lines, current = [], ""
    for part in parts:
        joined = f"{current} {part}," if current else f"{part},"
        if current and (len(joined) > WIDTH - 4 or "\n" in joined):
            lines.append(current)
            current = f"{part},"
        else:
            current = joined
    lines.append(current)
    body = "\n".join(lines).replace("\n", "\n  ")
    return f"{name}(\n  {body}\n)"


def _is_default(field: dataclasses.Field, value: Any) -> bool:
    """Whether an option has its default. Hyperparameters are always shown."""
    if isinstance(field.metadata.get("converter"), HyperparameterIn):
        return value is None
    return is_default(field, value)


def _shown(value: Any) -> str:
    """A number as digits, a schedule with its numbers, any other array as its shape."""
    if isinstance(value, PerParameter):
        function, tree = value.function, value.tree
        return f"PerParameter({_tree(tree) if function is None else _shown(function)})"
    return show_value(value)


def _tree(tree: Any) -> str:
    is_schedule = lambda x: isinstance(x, AbstractSchedule)
    leaves = jtu.tree_leaves_with_path(tree, is_leaf=is_schedule)
    shown = [f"{jtu.keystr(path)}: {show_value(x)}" for path, x in leaves[:3]]
    return ", ".join(shown + [f"{len(leaves) - 3} more"] * (len(leaves) > 3))


def _state(state: Any) -> list[str]:
    """The arrays of a state, by the names of their fields and with equal shapes
    counted."""
    named: dict[str, Counter[str]] = {}
    for path, leaf in jtu.tree_leaves_with_path(state):
        names = [key.name for key in path if isinstance(key, jtu.GetAttrKey)]
        name = names[-1] if names else "state"
        named.setdefault(name, Counter())[show_shape(leaf)] += 1
    by_shapes: dict[tuple, list[str]] = {}
    for name, shapes in named.items():
        by_shapes.setdefault(tuple(shapes.items()), []).append(name)
    return [
        f"{', '.join(names)}: {_counted(shapes)}" for shapes, names in by_shapes.items()
    ]


def _counted(shapes: Iterable[tuple[str, int]], most: int = 4) -> str:
    shown = [f"{n} × {x}" if n > 1 else x for x, n in shapes]
    more = [f"{len(shown) - most} more shapes"] if len(shown) > most else []
    return " + ".join(shown[:most] + more)


# What is for authors of rules, beside the methods that a base class leaves abstract.
_FOR_AUTHORS = {
    "views",
    "groups",
    "uses_value_fn",
    "uses_residual_fn",
    "learns",
    "per_example",
    "needs_inner_rate",
    "shared_hyperparameters",
    "inner_rate",
    "param_dtype",
}


def completions(transform: Any) -> list[str]:
    """The names that a user calls or reads."""
    own = {field.name for field in dataclasses.fields(transform)}
    names = own | {name for name in dir(type(transform)) if not name.startswith("_")}
    written = {
        name
        for base in type(transform).__mro__
        for name, member in vars(base).items()
        if getattr(member, "__isabstractmethod__", False)
    }
    # A field may have the name of such a method: `ReduceOnPlateau.factor`.
    return sorted(names - (written - own) - _FOR_AUTHORS)
