"""The Muon update of a stack of layers: what each phase costs."""

from collections.abc import Callable

import jax
import optax

import eqxopt

from .timing import Figure, interleaved


def _arrays(layers: int, width: int, key: jax.Array) -> list[dict[str, jax.Array]]:
    shapes = {
        "query": (width, width),
        "out": (width, width),
        "up": (4 * width, width),
        "down": (width, 4 * width),
    }
    keys = iter(jax.random.split(key, layers * len(shapes)))
    return [
        {name: jax.random.normal(next(keys), shape) for name, shape in shapes.items()}
        for _ in range(layers)
    ]


def _steps(layers: int, width: int) -> tuple[tuple[Callable, tuple], ...]:
    """Ours and the peer's: a step, and its arguments."""
    params = _arrays(layers, width, jax.random.key(0))
    grads = _arrays(layers, width, jax.random.key(1))
    # The axes of Equinox: outputs first.
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0)
    tx = optax.contrib.muon(
        0.02, muon_weight_dimension_numbers=jax.tree.map(lambda _: numbers, params)
    )
    opt, state = eqxopt.Muon(0.02).init(params), tx.init(params)

    def our_step(params, opt, grads):
        return opt.apply(grads, params)

    def their_step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return (our_step, (params, opt, grads)), (their_step, (params, state, grads))


def muon(layers: int, *, bars: tuple[float, float]) -> list[Figure]:
    """Compile, run."""
    (our_step, ours), (their_step, theirs) = _steps(layers, 128)

    def lower_ours():
        return jax.jit(lambda *args: our_step(*args)).lower(*ours)

    def lower_theirs():
        return jax.jit(lambda *args: their_step(*args)).lower(*theirs)

    lowered = {}

    def lower_both():
        lowered.update(ours=lower_ours(), theirs=lower_theirs())

    what = f"Muon, {layers} layers of 4 matrices"
    whole = interleaved(
        f"{what}: trace, lower and compile",
        lambda: lower_ours().compile() and None,
        lambda: lower_theirs().compile() and None,
        bar=bars[0],
        repeats=6,
        warm_up=1,
        before=jax.clear_caches,
    )
    compile_ = interleaved(
        f"{what}: compile alone",
        lambda: lowered["ours"].compile() and None,
        lambda: lowered["theirs"].compile() and None,
        bar=bars[0],
        repeats=6,
        warm_up=1,
        before=lower_both,
    )
    return [whole, compile_, muon_step(layers, 128, bar=bars[1])]


def muon_step(layers: int, width: int, *, bar: float) -> Figure:
    what = f"Muon, {layers} layers of 4 matrices"
    if width != 128:
        what = f"{what}, width {width}"
    ours, theirs = (
        lambda compiled=jax.jit(step), args=args: compiled(*args)
        for step, args in _steps(layers, width)
    )
    return interleaved(f"{what}: run", ours, theirs, bar=bar)
