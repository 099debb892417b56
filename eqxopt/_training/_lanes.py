"""Many runs side by side in one program."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from ._chunks import Chunk, Drawn
from ._compiled_step import CompiledStep
from ._layout import in_layout, Layout
from ._loop import loop_of
from ._step import Carry


# Equations that only call another program.
_CALLS = ("pjit", "jit", "closed_call")


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Which arrays of a carry are the same in all runs.

    These are kept once, with no axis for the runs. A count that all runs share keeps a
    `jax.lax.cond` on it a branch, where under `jax.vmap` both sides would be computed.
    """

    shared: tuple[bool, ...]

    @property
    def axes(self) -> list[int | None]:
        return [None if shared else 0 for shared in self.shared]

    def map(
        self,
        own: Callable[[Array], Array],
        arrays: list[Any],
        shared: Callable[[Array], Array],
    ) -> list[Any]:
        """`own` of arrays that differ, and `shared` of the others."""
        return [shared(x) if s else own(x) for s, x in zip(self.shared, arrays)]


def split(carry: PyTree) -> tuple[list[Array], Callable[[list[Any]], Any]]:
    """The arrays of `carry`, and a function from such arrays to a carry."""
    arrays, static = eqx.partition(carry, eqx.is_array)
    leaves, treedef = jtu.tree_flatten(arrays)
    return leaves, lambda leaves: eqx.combine(treedef.unflatten(leaves), static)


def new_population(has_aux: bool, residuals: bool) -> CompiledStep:
    """The loop of `fit` for many runs at once."""
    loop = loop_of(has_aux, residuals)

    def population(carry: Carry, args: Any, layout: Layout | None) -> tuple[Carry, Any]:
        lanes, loss_fn, keys, seeds, chunk, rows, n = args
        arrays, joined = split(carry)

        def one(arrays: list[Array], seed: Int[Array, ""]) -> Any:
            key = None if keys is None else keys[seed]
            own: Chunk = chunk
            if rows is not None:
                own = Drawn(chunk.data, rows[seed], chunk.length)
            run = joined(arrays)
            new, columns = loop(run, (loss_fn, key, own, n), None)
            return split(new)[0], columns

        if len(seeds) == 1:
            # Without `jax.vmap` a `jax.lax.cond` stays a branch.
            (seed,), same = seeds, lambda x: x
            new, columns = one(lanes.map(lambda x: x[0], arrays, same), seed)
            new = lanes.map(lambda x: x[None], new, same)
            columns = jtu.tree_map(lambda x: x[None], columns)
        else:
            every = jax.vmap(one, (lanes.axes, 0), (lanes.axes, 0))
            new, columns = every(arrays, seeds)
        return in_layout(joined(new), layout), columns

    return CompiledStep(population, donate=True)


def traced(function: Callable[..., Any], *args: Any) -> Any:
    """The equations of a function. Its arguments may be shapes."""
    return jax.make_jaxpr(function)(*args)


def depending(closed: Any, varying: list[bool]) -> list[bool]:
    """Which results depend on the `varying` ones of the arguments."""
    return _depending(closed.jaxpr, varying)


def nbytes(closed: Any) -> int:
    """The bytes of all that is computed on the way: an upper bound of what is needed,
    since much of it is fused or given back early."""
    return _bytes(closed.jaxpr)


def _depending(jaxpr: Any, varying: list[bool]) -> list[bool]:
    marked = {x for x, varies in zip(jaxpr.invars, varying) if varies}

    def varies(x: Any) -> bool:
        return not hasattr(x, "val") and x in marked

    for equation in jaxpr.eqns:
        ins = [varies(x) for x in equation.invars]
        if equation.primitive.name in _CALLS:
            outs = _depending(equation.params["jaxpr"].jaxpr, ins)
        else:
            outs = [any(ins)] * len(equation.outvars)
        marked.update(x for x, out in zip(equation.outvars, outs) if out)
    return [varies(x) for x in jaxpr.outvars]


def _bytes(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += sum(_bytes(inner) for inner in _inner(equation.params))
        for x in equation.outvars:
            if hasattr(x.aval, "shape"):
                total += math.prod(x.aval.shape) * x.aval.dtype.itemsize
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(x, "jaxpr", x)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
