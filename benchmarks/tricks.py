"""What is written as it is for the compiler or the tracer, with it and without it.

"ours" is the library as it is, and "peer" the same without the trick.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

import eqxopt

from .large import carried
from .models import random_like, ResidualMLP
from .timing import Figure, interleaved


def tricks() -> list[Figure]:
    return [
        *_compared(
            "`once_per_shape`: AdamW, 240 parameters",
            lambda: eqxopt.AdamW(1e-3),
            240,
            {"_abstract.leafwise._update_leaf": _unwrapped},
            in_stacks=False,
        ),
        *_compared(
            "`in_jit`: AdamW, 240 parameters",
            lambda: eqxopt.AdamW(1e-3),
            240,
            {"_abstract.optimizer.in_jit": lambda old: lambda: False},
        ),
        *_compared(
            "`opaque_indices` of keys: NoisySGD, 60 parameters",
            lambda: eqxopt.NoisySGD(1e-3),
            60,
            {"_fields.keys.opaque_indices": lambda old: lambda indices, count: indices},
        ),
        *_compared(
            "`opaque_indices` of batches: Muon, 60 parameters",
            lambda: eqxopt.Muon(0.02),
            60,
            {
                "_abstract.batches.opaque_indices": lambda old: (
                    lambda indices, count: indices
                )
            },
        ),
        *_compared(
            "`opaque_indices` of rows: AdamW, 240 parameters",
            lambda: eqxopt.AdamW(1e-3),
            240,
            {
                "_abstract.groups.opaque_indices": lambda old: (
                    lambda indices, count: tuple(indices)
                )
            },
        ),
        *_compared(
            "`all_finite`: SkipNonFinite(Adam), 240 parameters",
            lambda: eqxopt.SkipNonFinite(eqxopt.Adam(1e-3)),
            240,
            {"_wrapper.skip_nonfinite.all_finite": lambda old: _plainly_finite},
        ),
        *_compared(
            "`summed`: Prodigy, 120 parameters",
            lambda: eqxopt.Prodigy(),
            120,
            {"_abstract.coupled.summed": lambda old: _plain_sum},
        ),
        _large(
            "`results_given`: AdamW, packed",
            lambda: eqxopt.CompactState(eqxopt.AdamW(1e-3), "packed"),
            {"_precision.compact_state.with_words": lambda old: lambda new, x: x},
        ),
        _large(
            "`opaque_zeros`: LaProp, 8-bit",
            lambda: eqxopt.CompactState(eqxopt.LaProp(1e-3), "8-bit"),
            {
                "_precision.compact_state.opaque_zeros": lambda old: (
                    lambda length, count: old(1, count) * length
                )
            },
        ),
        _large(
            "`computed_once`: AdamW in SplitWeights",
            lambda: eqxopt.SplitWeights(eqxopt.AdamW(1e-3)),
            {"_precision.abstract.computed_once": lambda old: lambda x, count: x},
            jnp.bfloat16,
        ),
        _traces(),
        _decompositions(),
    ]


def _large(
    what: str,
    make: Callable[[], eqxopt.AbstractOptimizer],
    without: dict[str, Callable[[Any], Any]],
    dtype: Any = jnp.float32,
) -> Figure:
    """A donated step of one array of 16.8M entries."""
    params = random_like(jnp.zeros((4096, 4096), dtype), jax.random.key(0))
    grads = random_like(params, jax.random.key(1))

    def step(params: Any, opt: Any, grads: Any) -> Any:
        return opt.apply(grads, params)

    ours = carried(step, params, make().init(params), grads)
    ours()
    with _patched(without):
        peer = carried(step, params, make().init(params), grads)
        peer()
    return interleaved(f"{what}, 16.8M entries: run", ours, peer, repeats=20)


def _compared(
    what: str,
    make: Callable[[], eqxopt.AbstractOptimizer],
    leaves: int,
    without: dict[str, Callable[[Any], Any]],
    *,
    in_stacks: bool = True,
) -> list[Figure]:
    """Trace and lower, compile, run."""
    model = ResidualMLP(leaves, key=jax.random.key(0))
    grads = random_like(model, jax.random.key(1))
    arrays, static = eqx.partition(model, eqx.is_array)
    opt = make().init(model, in_stacks=in_stacks)

    def step(arrays: Any, opt: Any, grads: Any) -> Any:
        model, opt = opt.apply(grads, eqx.combine(arrays, static))
        return eqx.filter(model, eqx.is_array), opt

    def lower() -> Any:
        return jax.jit(lambda *args: step(*args)).lower(arrays, opt, grads)

    def lower_without() -> Any:
        with _patched(without):
            return lower()

    traced = interleaved(
        f"{what}: trace and lower",
        lambda: lower() and None,
        lambda: lower_without() and None,
        before=jax.clear_caches,
        repeats=5,
        warm_up=1,
    )
    lowered: dict[str, Any] = {}

    def lower_both() -> None:
        jax.clear_caches()
        lowered["with"] = lower()
        jax.clear_caches()
        lowered["without"] = lower_without()

    compiled = interleaved(
        f"{what}: compile",
        lambda: lowered["with"].compile() and None,
        lambda: lowered["without"].compile() and None,
        before=lower_both,
        repeats=3,
        warm_up=0,
    )
    ours, peer = lowered["with"].compile(), lowered["without"].compile()
    run = interleaved(
        f"{what}: run",
        lambda: ours(arrays, opt, grads),
        lambda: peer(arrays, opt, grads),
        repeats=60,
        warm_up=10,
    )
    return [traced, compiled, run]


@contextlib.contextmanager
def _patched(changes: dict[str, Callable[[Any], Any]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, change in changes.items():
            module, attribute = f"eqxopt.{name}".rsplit(".", 1)
            old = getattr(importlib.import_module(module), attribute)
            stack.enter_context(mock.patch(f"eqxopt.{name}", change(old)))
        jax.clear_caches()
        yield


def _unwrapped(function: Any) -> Any:
    return function.__wrapped__


def _plainly_finite(arrays: Any) -> Any:
    each = [jnp.all(jnp.isfinite(x)) for x in arrays if x is not None]
    return jnp.all(jnp.stack(each))


def _plain_sum(terms: Any, dtype: jnp.dtype) -> Any:
    plus = lambda *xs: jnp.sum(jnp.stack([x.astype(dtype) for x in xs]))
    return jtu.tree_map(plus, *terms)


def _traces() -> Figure:
    """A step whose loss function is a new lambda each time, called eagerly."""
    model = ResidualMLP(60, key=jax.random.key(0))
    grads = random_like(model, jax.random.key(1))
    opt = eqxopt.LBFGS(0.1, memory_size=2).init(model)
    x = jnp.ones((4, 16))

    def step() -> Any:
        value_fn = lambda model: jnp.mean(jnp.square(jax.vmap(model)(x)))
        new, _ = opt.apply(grads, model, value=value_fn(model), value_fn=value_fn)
        return eqx.filter(new, eqx.is_array)

    def without() -> Any:
        with mock.patch("eqxopt._abstract.optimizer.as_argument", lambda f, model: f):
            return step()

    what = "`as_argument`: an eager step of LBFGS with a new lambda"
    return interleaved(what, step, without, repeats=3, warm_up=1)


def _decompositions() -> Figure:
    """Sixteen decompositions of 128 × 128 matrices."""
    from eqxopt._math.linalg import eigh

    x = random_like(jnp.zeros((16, 128, 128)), jax.random.key(0))
    x = x + jnp.swapaxes(x, -2, -1)
    ours, peer = jax.jit(eigh), jax.jit(lambda x: tuple(jnp.linalg.eigh(x)))
    what = "one after another: `eigh` of 16 matrices, run"
    return interleaved(what, lambda: ours(x), lambda: peer(x), repeats=7)
