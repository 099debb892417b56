"""The numbers of the papers: 25 steps beside a transcription in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paper import PAPER
from training_loops import assert_close


@functools.partial(jax.jit, static_argnums=0)
def step(drawn, opt, params, grads):
    params, after = opt.apply(grads, params)
    return params, after, drawn and drawn(opt, after)


def trained(pair, params, gradients):
    """The parameters after each step, and what was drawn in it for each of them."""
    params = [jnp.asarray(x) for x in params]
    opt = pair.make().init(params)
    for at_step in zip(*gradients):
        grads = [jnp.asarray(g(np.asarray(x))) for g, x in zip(at_step, params)]
        params, opt, drawn = step(pair.drawn, opt, params, grads)
        yield params, drawn


@pytest.mark.parametrize(
    "name, variant", [(name, i) for name in PAPER for i in range(len(PAPER[name]))]
)
def test_paper(name, variant, x64):
    pair = PAPER[name][variant]
    rng = np.random.default_rng(0)
    start = [pair.start * rng.normal(size=shape) for shape in pair.shapes]
    gradients = [pair.gradients(rng, shape) for shape in pair.shapes]
    steps = list(trained(pair, start, gradients))
    for i, (x, own) in enumerate(zip(start, gradients)):
        draws = [[np.asarray(drawn[i]) for _, drawn in steps]] if pair.drawn else []
        expected = pair.paper(np.asarray(x), own, *draws)
        for (params, _), y in zip(steps, expected, strict=True):
            assert_close(params[i], jnp.asarray(y))
