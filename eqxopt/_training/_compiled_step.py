"""Compiled functions that carry a model and an optimizer on."""

import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array


class Carried:
    """`function(model, opt, *rest) -> (model, opt, *out)`, compiled.

    It flattens by hand, because that is most of what a step of a small model costs:
    what was given out last is not flattened again when it comes back. The structure of
    the model and the optimizer must come out as it went in.
    """

    def __init__(self, function: Callable[..., Any], donate: bool):
        self._function = function
        self._donate = donate
        self._programs: dict[Any, _Program] = {}
        self._last: _Last | None = None

    def __call__(self, model: Any, opt: Any, *rest: Any) -> tuple[Any, ...]:
        last = self._last
        if last is not None and last.is_of(model, opt):
            carry, program = last.leaves, last.program
        else:
            carry, program = self._flatten(model, opt)
        self._last = None
        try:
            new, out = program.run(carry, rest)
        except (RuntimeError, ValueError) as error:
            if any(x.is_deleted() for x in carry):
                raise ValueError(
                    "this model or optimizer was donated to an earlier step, whose "
                    "results take its place. Use `model, opt, loss = step(model, opt, "
                    "batch)`, or `make_step(..., donate=False)`."
                ) from error
            raise
        model, opt = program.unflatten(new)
        self._last = _Last(model, opt, new, program)
        return model, opt, *out

    def _flatten(self, model: Any, opt: Any) -> tuple[list[Array], "_Program"]:
        leaves, treedef = jtu.tree_flatten((model, opt))
        arrays = [x for x in leaves if eqx.is_array(x)]
        rest = tuple(None if eqx.is_array(x) else x for x in leaves)
        key = (treedef, rest)
        if key not in self._programs:
            self._programs[key] = _Program(self._function, treedef, rest, self._donate)
        return arrays, self._programs[key]


class _Last:
    """What a step gave out, for as long as both parts of it live."""

    def __init__(self, model: Any, opt: Any, leaves: list[Array], program: "_Program"):
        self.leaves: list[Array] = leaves
        self.program = program
        try:
            self._model = weakref.ref(model, self._forget)
        except TypeError:  # a list, a dictionary: these may change, too
            self._model = None
        self._opt = weakref.ref(opt, self._forget)

    def is_of(self, model: Any, opt: Any) -> bool:
        return self._model is not None and self._model() is model and self._opt() is opt

    def _forget(self, _: Any) -> None:
        self.leaves = []
        self._model = None


class _Program:
    """The step for one structure of model and optimizer."""

    def __init__(
        self, function: Callable[..., Any], treedef: Any, rest: tuple, donate: bool
    ):
        self._treedef = treedef
        self._rest = rest
        self._function = function
        self._compiled = jax.jit(
            self._flat, donate_argnums=(0,) if donate else (), static_argnums=(2, 3)
        )

    def run(self, carry: list[Array], rest: tuple[Any, ...]) -> Any:
        leaves, treedef = jtu.tree_flatten(rest)
        static = None
        if not all(eqx.is_array_like(x) for x in leaves):
            static = tuple(None if eqx.is_array_like(x) else x for x in leaves)
            leaves = [x for x in leaves if eqx.is_array_like(x)]
        return self._compiled(carry, leaves, treedef, static)

    def unflatten(self, arrays: list[Array]) -> Any:
        return self._treedef.unflatten(_filled(self._rest, arrays))

    def _flat(
        self, carry: list[Array], leaves: list[Array], treedef: Any, static: Any
    ) -> tuple[list[Array], tuple[Any, ...]]:
        model, opt = self.unflatten(carry)
        rest = leaves if static is None else _filled(static, leaves)
        new_model, new_opt, *out = self._function(model, opt, *treedef.unflatten(rest))
        new = [x for x in jtu.tree_leaves((new_model, new_opt)) if eqx.is_array(x)]
        return new, tuple(out)


def _filled(rest: tuple[Any, ...], arrays: list[Any]) -> list[Any]:
    """`arrays`, in their order, at the places where `rest` has `None`."""
    remaining = iter(arrays)
    return [next(remaining) if x is None else x for x in rest]
