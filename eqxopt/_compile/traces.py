"""Functions that are never stale, as arguments of a compiled one.

A loss may read anything: an attribute of an object, an entry of a dictionary. If we do
not know what a function reads, only a trace tells what that is now. So an eager step
traces it, which takes milliseconds, and compiles only if no recent trace was the same,
which takes seconds. The arrays that the loss reads are arguments of the program.
"""

import functools
import os
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, JaxprEqn, Literal
from jaxtyping import PyTree

from .._tree import merged_leaves, static_key, static_leaves
from .captured import Closure
from .closures import as_pytree


class _Program:
    """A traced function without the arrays that it reads. Equal ones are one object."""

    def __init__(self, jaxpr: Jaxpr, out: Any):
        self.jaxpr = jaxpr
        self.out = out


class Traced(eqx.Module):
    """A function of a model as its trace, which is static, and what it reads, which
    are leaves."""

    program: _Program = eqx.field(static=True)
    reads: list[Any]

    def __call__(self, model: PyTree) -> PyTree:
        jaxpr = self.program.jaxpr
        arrays = [x for x in jtu.tree_leaves(model) if eqx.is_array(x)]
        known: list[Any] = [var.aval for var in jaxpr.invars]
        if [(x.shape, x.dtype) for x in known] != [(x.shape, x.dtype) for x in arrays]:
            raise ValueError(
                "`value_fn` can only be called with a model whose arrays have the "
                "shapes and dtypes of those that `apply` was given"
            )
        run: Callable[..., Any] = jaxpr_as_fun(ClosedJaxpr(jaxpr, self.reads))
        return self.program.out.unflatten(run(*arrays))


_programs: weakref.WeakValueDictionary[Any, _Program] = weakref.WeakValueDictionary()


def as_argument(function: Callable[[Any], Any], model: PyTree) -> Closure | Traced:
    """`function`, as it is now, as a pytree, for models like `model`."""
    captured = as_pytree(function, model)
    return captured if isinstance(captured, Closure) else traced(function, model)


def traced(function: Callable[[Any], Any], model: PyTree) -> Traced:
    """`function`, as it is now, for models like `model`."""
    leaves, treedef = jtu.tree_flatten(model)
    out: list[Any] = []

    # A new function at every call: JAX remembers the traces of those that it knows.
    def flat(*arrays: Any) -> list[Any]:
        remaining = iter(arrays)
        filled = [next(remaining) if eqx.is_array(x) else x for x in leaves]
        values, structure = jtu.tree_flatten(function(treedef.unflatten(filled)))
        out.append(structure)
        return values

    closed = jax.make_jaxpr(flat)(*(x for x in leaves if eqx.is_array(x)))
    reads = [x if isinstance(x, jax.Array) else np.asarray(x) for x in closed.consts]
    form = _Form().of_jaxpr(closed.jaxpr), out[0]
    program = _programs.get(form)
    if program is None:
        program = _programs[form] = _Program(closed.jaxpr, out[0])
    return Traced(program, reads)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of trees, compiled. What is no array in them is static.

    Like `equinox.filter_jit`, but with less work in a call, and it forgets programs:
    the trace of a loss may be another at every call.
    """

    @functools.lru_cache(maxsize=64)
    def program(treedef: Any, static: tuple[Any, ...], _: tuple[Any, ...]) -> Any:
        out: list[Any] = []

        @jax.jit
        def flat(arrays: list[Any]) -> list[Any]:
            results = function(*treedef.unflatten(merged_leaves(static, arrays)))
            leaves, structure = jtu.tree_flatten(results)
            out[:] = structure, static_leaves(leaves)
            return [x for x in leaves if eqx.is_array(x)]

        def run(arrays: list[Any]) -> Any:
            made = flat(arrays)
            structure, static_out = out
            return structure.unflatten(merged_leaves(static_out, made))

        return run

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, treedef = jtu.tree_flatten(args)
        static = static_leaves(leaves)
        run = program(treedef, static, static_key(static))
        return run([x for x in leaves if eqx.is_array(x)])

    return call


class _Is:
    """An object, equal only to itself."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Is) and self.value is other.value


class _Form:
    """What two traces have in common if they are one program."""

    def __init__(self):
        self._done: dict[int, Hashable] = {}

    def of_jaxpr(self, jaxpr: Jaxpr) -> Hashable:
        numbers: dict[Any, int] = {}

        def place(x: Any) -> Hashable:
            if isinstance(x, Literal):
                return x.aval, self.of(x.val)
            return numbers.setdefault(x, len(numbers))

        inputs = tuple((place(x), x.aval) for x in (*jaxpr.constvars, *jaxpr.invars))
        equations = tuple(
            (
                eqn.primitive,
                tuple(map(place, eqn.invars)),
                tuple(map(place, eqn.outvars)),
                self._once(eqn.ctx, repr),
                self._parameters(eqn),
            )
            for eqn in jaxpr.eqns
        )
        return inputs, equations, tuple(map(place, jaxpr.outvars))

    def of(self, x: Any) -> Hashable:
        """The same for a parameter of an equation, or a number in it. What we cannot
        compare by value is equal only to itself, and then the program is a new one."""
        if isinstance(x, tuple | list):
            return type(x), tuple(map(self.of, x))
        if isinstance(x, dict):
            return tuple((key, self.of(x[key])) for key in sorted(x, key=str))
        if isinstance(x, Jaxpr):
            return self._once(x, self.of_jaxpr)
        if isinstance(x, ClosedJaxpr):
            return self.of(x.jaxpr), self.of(x.consts)
        if isinstance(x, float | complex):
            return type(x), repr(x)  # which tells 0.0 from -0.0
        if isinstance(x, np.generic | np.ndarray):
            return x.dtype, x.shape, x.tobytes()
        by_value = isinstance(x, Hashable) and not isinstance(x, jax.Array | Tracer)
        return (type(x), x) if by_value else _Is(x)

    def _once(self, x: Any, form: Callable[[Any], Hashable]) -> Hashable:
        if id(x) not in self._done:
            self._done[id(x)] = form(x)
        return self._done[id(x)]

    def _parameters(self, eqn: JaxprEqn) -> Hashable:
        if not _has_rule_of_jax(eqn):
            return self.of(eqn.params)
        # The rule of a derivative is a new object in every trace. We trust those of
        # JAX itself, such as that of `jax.nn.relu`, to be what they were.
        is_rule = lambda x: callable(x) or hasattr(x, "call_wrapped")
        return self.of({k: x for k, x in eqn.params.items() if not is_rule(x)})


_HERE = f" at {os.path.dirname(jax.__file__)}{os.sep}"


def _has_rule_of_jax(eqn: JaxprEqn) -> bool:
    """Whether this calls a function of JAX with a derivative of its own."""
    jaxpr = getattr(eqn.params.get("call_jaxpr"), "jaxpr", None)
    source = getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None) or ""
    # `jax.custom_gradient` defines one around a function of the user.
    mine = _HERE in source and "custom_derivatives" not in source
    return mine and eqn.primitive.name.startswith("custom_")
