"""The Muon update of a stack of layers: what each phase costs."""

import jax
import optax

import eqxopt

from .timing import Figure, interleaved


LAYER = {
    "query": (128, 128),
    "out": (128, 128),
    "up": (512, 128),
    "down": (128, 512),
}


def muon(layers: int, *, bars: tuple[float, float]) -> list[Figure]:
    """Compile, run."""
    keys = iter(jax.random.split(jax.random.key(0), 2 * layers * len(LAYER)))

    def arrays():
        return [
            {
                name: jax.random.normal(next(keys), shape)
                for name, shape in LAYER.items()
            }
            for _ in range(layers)
        ]

    params, grads = arrays(), arrays()
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

    def compile_ours():
        return jax.jit(lambda *args: our_step(*args)).lower(params, opt, grads)

    def compile_theirs():
        return jax.jit(lambda *args: their_step(*args)).lower(params, state, grads)

    lowered = {}

    def lower_both():
        lowered.update(ours=compile_ours(), theirs=compile_theirs())

    what = f"Muon, {layers} layers of 4 matrices"
    whole = interleaved(
        f"{what}: trace, lower and compile",
        lambda: compile_ours().compile() and None,
        lambda: compile_theirs().compile() and None,
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
    ours, theirs = jax.jit(our_step), jax.jit(their_step)
    run = interleaved(
        f"{what}: run",
        lambda: ours(params, opt, grads),
        lambda: theirs(params, state, grads),
        bar=bars[1],
    )
    return [whole, compile_, run]
