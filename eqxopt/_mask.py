"""Masks: which parameters something is done to."""

from typing import Any

import jax.tree_util as jtu
import numpy as np

from ._tree import choose, is_function, needed_arguments, Parameters


class Mask:
    """A static selector of booleans: a function of `(path, array)` or a prefix tree.

    Kept as a field outside the pytree, and so hashable.
    """

    def __init__(self, choice: Any):
        if is_function(choice):
            if needed_arguments(choice) == 1:
                raise TypeError(
                    f"a mask takes (path, array), but {choice} takes one argument. If "
                    "it makes a tree from the model, give that tree: mask(model)"
                )
            self._key = self._choice = choice
        else:
            self._choice = choice
            self._key = tuple(
                (path, bool(on)) for path, on in jtu.tree_flatten_with_path(choice)[0]
            )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self._key == other._key

    def __repr__(self) -> str:
        return f"Mask({self._choice})"

    def at(self, parameters: Parameters, what: str) -> list[bool]:
        chosen = choose(self._choice, parameters, what)
        for i, on in enumerate(chosen):
            if not isinstance(on, bool | np.bool_):
                raise TypeError(
                    f"{what} must be True or False for each parameter, but is {on!r} "
                    f"for {parameters.path(i)}"
                )
        return [bool(on) for on in chosen]


def as_mask(choice: Any) -> Mask | None:
    return choice if choice is None or isinstance(choice, Mask) else Mask(choice)


def mask_of(*hyperparameters: str) -> dict[str, Any]:
    """Field metadata: where the mask is False, these hyperparameters are 0."""
    return {"masks": hyperparameters}
