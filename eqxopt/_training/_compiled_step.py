"""A compiled function from a model and an optimizer to the next ones."""

import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array


class CompiledStep:
    """`function(model, opt, *args) -> (model, opt, *out)`, compiled.

    Flattening is most of the cost of a step of a small model. So this class does it by
    hand: if the model and the optimizer are those that the last call returned, it
    reuses their leaves. `function` must return a model and an optimizer of the
    structure that it was given.
    """

    def __init__(self, function: Callable[..., Any], donate: bool):
        self._function = function
        self._donate = donate
        self._programs: dict[Any, _Program] = {}
        self._last: _LastResult | None = None

    def __call__(self, model: Any, opt: Any, *args: Any) -> tuple[Any, ...]:
        last = self._last
        if last is not None and last.is_of(model, opt):
            arrays, program = last.arrays, last.program
        else:
            arrays, program = self._flatten(model, opt)
        self._last = None
        try:
            new, out = program.run(arrays, args)
        except (RuntimeError, ValueError) as error:
            if any(x.is_deleted() for x in arrays):
                raise ValueError(
                    "this model or optimizer was donated to an earlier step, whose "
                    "results take its place. Use `model, opt, loss = step(model, opt, "
                    "batch)`, or `make_step(..., donate=False)`."
                ) from error
            raise
        model, opt = program.unflatten(new)
        self._last = _LastResult(model, opt, new, program)
        return model, opt, *out

    def _flatten(self, model: Any, opt: Any) -> tuple[list[Array], "_Program"]:
        leaves, treedef = jtu.tree_flatten((model, opt))
        arrays = [x for x in leaves if eqx.is_array(x)]
        static = tuple(None if eqx.is_array(x) else x for x in leaves)
        key = (treedef, static)
        if key not in self._programs:
            program = _Program(self._function, treedef, static, self._donate)
            self._programs[key] = program
        return arrays, self._programs[key]


class _LastResult:
    """The model and the optimizer that a step returned, with their arrays, for as long
    as both objects are alive."""

    def __init__(self, model: Any, opt: Any, arrays: list[Array], program: "_Program"):
        self.arrays: list[Array] = arrays
        self.program = program
        try:
            self._model = weakref.ref(model, self._forget)
        except TypeError:
            # A list or a dictionary, which the user may also change in place.
            self._model = None
        self._opt = weakref.ref(opt, self._forget)

    def is_of(self, model: Any, opt: Any) -> bool:
        return self._model is not None and self._model() is model and self._opt() is opt

    def _forget(self, _: Any) -> None:
        self.arrays = []
        self._model = None


class _Program:
    """The step for one structure of model and optimizer."""

    def __init__(
        self, function: Callable[..., Any], treedef: Any, static: tuple, donate: bool
    ):
        self._treedef = treedef
        self._static = static
        self._function = function
        donated = (0,) if donate else ()
        self._compiled = jax.jit(
            self._run_flat, donate_argnums=donated, static_argnums=(2, 3)
        )

    def run(self, arrays: list[Array], args: tuple[Any, ...]) -> Any:
        leaves, treedef = jtu.tree_flatten(args)
        static = None
        if not all(eqx.is_array_like(x) for x in leaves):
            static = tuple(None if eqx.is_array_like(x) else x for x in leaves)
            leaves = [x for x in leaves if eqx.is_array_like(x)]
        return self._compiled(arrays, leaves, treedef, static)

    def unflatten(self, arrays: list[Array]) -> Any:
        return self._treedef.unflatten(_merged(self._static, arrays))

    def _run_flat(
        self, arrays: list[Array], leaves: list[Array], treedef: Any, static: Any
    ) -> tuple[list[Array], tuple[Any, ...]]:
        model, opt = self.unflatten(arrays)
        leaves = leaves if static is None else _merged(static, leaves)
        args = treedef.unflatten(leaves)
        new_model, new_opt, *out = self._function(model, opt, *args)
        new = [x for x in jtu.tree_leaves((new_model, new_opt)) if eqx.is_array(x)]
        return new, tuple(out)


def _merged(static: tuple[Any, ...], arrays: list[Any]) -> list[Any]:
    """All leaves in order: `arrays` where `static` has `None`."""
    remaining = iter(arrays)
    return [next(remaining) if x is None else x for x in static]
