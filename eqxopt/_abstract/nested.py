"""Transforms inside transforms: how a field that holds one is declared, and how those
inside are found and exchanged."""

import dataclasses
from typing import Any, dataclass_transform, TypeVar

import equinox as eqx

from .._fields import (
    bound,
    dtype_option,
    hyperparameter,
    HyperparameterIn,
    key_field,
    mask_of,
    matrices_of,
    word,
)
from .._number import converted, integer, NumbersMeta
from .._tree import is_function, replace_fields


T = TypeVar("T", bound=eqx.Module)


def as_optimizer(x: Any) -> Any:
    """A field converter: the optimizer that another one holds."""
    if not _is_optimizer(x):
        raise TypeError(
            f"a wrapper takes an optimizer first, such as `eqxopt.SGD(0.1)`, not {x!r}"
        )
    return x


def inner(**options: Any) -> Any:
    """Declare a field that holds another optimizer."""
    metadata = {"like": "AbstractOptimizer"}
    return eqx.field(converter=as_optimizer, metadata=metadata, **options)


def fallback_of(**options: Any) -> Any:
    """Declare a field that holds the optimizer of all other parameters, or `None` or a
    function of the learning rate, of which the class makes one."""

    def converter(x: Any) -> Any:
        if x is None or is_function(x) or _is_optimizer(x):
            return x
        raise TypeError(
            "the fallback is an optimizer, or a function that makes one from the "
            f"learning rate, such as `eqxopt.AdamW`, not {x!r}"
        )

    metadata = {"like": "FallbackLike"}
    return eqx.field(converter=converter, metadata=metadata, **options)


@dataclass_transform(
    field_specifiers=(
        eqx.field,
        hyperparameter,
        bound,
        integer,
        mask_of,
        matrices_of,
        dtype_option,
        word,
        key_field,
        inner,
        fallback_of,
    )
)
class FieldsMeta(NumbersMeta):
    """The metaclass of transforms and line searches: it tells type checkers which
    functions declare a field."""


def is_transform(x: object) -> bool:
    return isinstance(type(x), FieldsMeta) and hasattr(type(x), "advance")


def _is_optimizer(x: object) -> bool:
    return is_transform(x) and hasattr(x, "apply")


def hyperparameter_names(transform: eqx.Module) -> list[str]:
    return [
        f.name
        for f in dataclasses.fields(transform)
        if isinstance(f.metadata.get("converter"), HyperparameterIn)
    ]


def inner_transforms(transform: eqx.Module) -> dict[str, Any]:
    """The transforms in the fields of `transform`, by label: the key in a dictionary,
    and otherwise the name of the class, with a number where that is not enough."""
    inner: dict[str, Any] = {}
    for field in dataclasses.fields(transform):
        held = getattr(transform, field.name)
        if isinstance(held, dict):
            inner |= {k: x for k, x in held.items() if is_transform(x)}
        for x in held if isinstance(held, tuple) else (held,):
            if is_transform(x):
                name = type(x).__name__
                same = sum(label.split("[")[0] == name for label in inner)
                inner[f"{name}[{same}]" if same else name] = x
    return inner


def replace_inner(transform: T, changes: dict[str, Any]) -> T:
    """`transform` with the inner transforms at some labels exchanged."""
    new = iter((inner_transforms(transform) | changes).values())
    fields = {}
    for field in dataclasses.fields(transform):
        held = getattr(transform, field.name)
        swap = lambda x: next(new) if is_transform(x) else x
        if isinstance(held, dict):
            fields[field.name] = {k: swap(x) for k, x in held.items()}
        elif type(held) is tuple:  # and no state, which may be a named one
            fields[field.name] = tuple(swap(x) for x in held)
        elif is_transform(held):
            fields[field.name] = swap(held)
    # Leave all other fields out: setting one that was never set changes the structure.
    return replace_fields(transform, **fields)


def with_changes(transform: T, changes: dict[str, Any]) -> T:
    """`transform` with some hyperparameters changed, its own or those inside."""
    fields = {f.name: f for f in dataclasses.fields(transform) if f.init}
    new = transform
    for name, value in changes.items():
        if name in fields:
            value = converted(type(new), fields[name], value)
            new = replace_fields(new, **{name: value})
        else:
            label, rest = _owner(new, name)
            inner = with_changes(inner_transforms(new)[label], {rest: value})
            new = replace_inner(new, {label: inner})
    for cls in type(new).__mro__:  # as Equinox does for a new object
        if "__check_init__" in vars(cls):
            vars(cls)["__check_init__"](new)
    return new


def _owner(transform: eqx.Module, name: str) -> tuple[str, str]:
    """The label of the inner transform that has the hyperparameter `name`, and what
    it is called there."""
    found = [
        (label, inside)
        for label, x in inner_transforms(transform).items()
        for inside in _all_names(x)
        if f"{label}.{inside}" == name or f".{inside}".endswith(f".{name}")
    ]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"`{full}`" for full in _all_names(transform))
    problem = f"has several `{name}`" if found else f"has no field `{name}`"
    raise TypeError(f"`{type(transform).__name__}` {problem}; it has {listed}")


def _all_names(transform: eqx.Module) -> list[str]:
    inner = inner_transforms(transform)
    own = [f.name for f in dataclasses.fields(transform) if f.init]
    if inner:  # the fields that hold the inner ones are no hyperparameters
        own = hyperparameter_names(transform)
    return own + [
        f"{label}.{name}" for label, x in inner.items() for name in _all_names(x)
    ]
