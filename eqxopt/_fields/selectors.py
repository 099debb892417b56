"""Static selectors: masks and labels."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .._number import show_value
from .._tree import accepts, choose, is_function, needed_arguments, Parameters


class AbstractSelector(abc.ABC):
    """A static choice for each parameter: a function of `(path, array)` or `(path,
    array, modules)`, or a prefix tree. It is hashable, because static fields are
    compared and hashed."""

    def __init__(self, choice: Any):
        self._choice = choice
        if is_function(choice):
            kind, needed = type(self).__name__.lower(), needed_arguments(choice)
            if needed == 1:
                raise TypeError(
                    f"a {kind} function takes (path, array), but {choice} takes one "
                    "argument. If it makes a tree from the model, give that tree: "
                    f"{kind}(model)"
                )
            if needed not in (2, 3) and not accepts(choice, 2):
                raise TypeError(
                    f"a {kind} function takes (path, array) or (path, array, modules), "
                    f"but {choice} takes {needed} arguments"
                )
            self._key = choice
        else:
            flat, _ = jtu.tree_flatten_with_path(choice)
            self._key = tuple(
                (path, self.read(leaf, "it", None)) for path, leaf in flat
            )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key == other._key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({show_value(self._choice)})"

    @abc.abstractmethod
    def read(self, value: Any, what: str, array: Array | None) -> Any:
        """The choice that `value` stands for, checked against `array` if that is known.

        **Raises:** a `TypeError` or `ValueError` that begins with `what`."""

    def at(self, parameters: Parameters, what: str) -> list[Any]:
        """The choice for each parameter."""
        chosen = choose(self._choice, parameters, what)
        return [
            self.read(value, f"{what}, for {parameters.path(i)},", parameters.arrays[i])
            for i, value in enumerate(chosen)
        ]


Modules: TypeAlias = tuple[eqx.Module, ...]
"""The modules that a parameter lies in, from the model to the layer."""

MaskLike: TypeAlias = (
    Callable[[str, Array], bool]
    | Callable[[str, Array, Modules], bool]
    | bool
    | Mapping
    | tuple
    | list
    | eqx.Module
)
"""What a mask is set to: a function of `(path, array)` or `(path, array, modules)`, or
a tree of booleans that is a prefix of the model."""


class Mask(AbstractSelector):
    """Selects parameters: a boolean for each."""

    def read(self, value: Any, what: str, array: Array | None) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{what} must be True or False, not {value!r}")
        return bool(value)


class Labels(AbstractSelector):
    """Groups parameters: a string for each."""

    def read(self, value: Any, what: str, array: Array | None) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{what} must be a label, a string, not {value!r}")
        return value


if TYPE_CHECKING:

    class OptionalMask:
        """A field that is set to a choice of booleans. Inside a rule it is read as the
        boolean of this parameter."""

        def __get__(self, instance: object, owner: Any = None) -> bool | None: ...
        def __set__(self, instance: object, value: MaskLike | None) -> None: ...

else:
    OptionalMask: TypeAlias = Mask | None


def as_mask(choice: Any) -> Mask | None:
    return choice if choice is None or isinstance(choice, Mask) else Mask(choice)


def as_labels(choice: Any) -> Labels:
    return choice if isinstance(choice, Labels) else Labels(choice)


def mask_of(*hyperparameters: str, **options: Any) -> Any:
    """Declare a static field that holds a mask.

    Where the mask is False, these hyperparameters are 0.
    """
    metadata = {"masks": hyperparameters, "like": "MaskLike"}
    return eqx.field(converter=as_mask, static=True, metadata=metadata, **options)
