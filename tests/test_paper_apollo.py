"""APOLLO of Zhu et al., 2024, transcribed: Algorithm 1 with the order of the authors'
code, and the projections that ours has drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Model

import eqxopt
from eqxopt._matrices.apollo import projection


def norm(x, axis=None):
    return np.sqrt(np.sum(x**2, axis=axis, keepdims=True))


def apollo(x, gradients, draws, lr, scale, lam, b1, b2, eps, channel, gamma):
    """`draws` are the projections; more rows than columns are told by theirs."""
    mean, v, last = 0.0, 0.0, None
    for t, (gradient, p) in enumerate(zip(gradients, draws), 1):
        g = gradient(x)
        tall = g.shape[0] >= g.shape[1]
        low = g @ p.T if tall else p @ g
        mean = b1 * mean + (1 - b1) * low
        v = b2 * v + (1 - b2) * low**2
        normed = mean / (np.sqrt(v) + eps)
        axis = None if not channel else 1 if tall else 0
        scaled = g * norm(normed, axis) / (norm(low, axis) + 1e-8)
        size = np.linalg.norm(scaled)
        if last is not None and gamma is not None:
            limiter = max(size / (last + 1e-8), gamma) / gamma
            scaled, size = scaled / limiter, size / limiter
        last = size
        step = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        x = x - step * np.sqrt(scale) * scaled - lr * lam * x
    return x


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize(
    "channel, rank, gamma", [(True, 2, 1.01), (False, 1, 1.1), (True, 2, None)]
)
def test_paper(shape, channel, rank, gamma, x64):
    rng = np.random.default_rng(0)
    start, shifts = rng.normal(size=shape), rng.normal(size=(25, *shape))
    gradients = [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in shifts]
    lr, scale, lam, b1, b2, eps = options = 0.02, 4.0, 0.1, 0.8, 0.9, 1e-3

    x = jnp.asarray(start)
    opt = eqxopt.APOLLO(
        lr,
        rank,
        7,
        scale,
        lam,
        b1=b1,
        b2=b2,
        eps=eps,
        scale_type="channel" if channel else "tensor",
        max_growth=gamma,
        seed=3,
    ).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    draws, like = [], jnp.zeros((1, *sorted(shape)))
    for gradient in gradients:
        x, opt = step(x, opt, jnp.asarray(gradient(np.asarray(x))))
        draws.append(np.asarray(projection(opt.state.key, like, rank)[0]))
    changes = [not np.array_equal(a, b) for a, b in zip(draws, draws[1:])]
    assert [i for i, changed in enumerate(changes, 1) if changed] == [7, 14, 21]

    expected = apollo(start, gradients, draws, *options, channel, gamma)
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)


def test_projections_differ_and_keep_lengths():
    x = {"a": jnp.ones((3, 40)), "b": jnp.ones((3, 40))}
    _, opt = eqxopt.APOLLO(0.1).init(x).apply(x, x)
    assert not np.array_equal(opt.state["a"].key, opt.state["b"].key)
    p = projection(opt.state["a"].key, jnp.ones((1, 3, 40)), 10_000)[0]
    np.testing.assert_allclose(p.T @ p, np.eye(3), atol=0.05)


def test_memory():
    state = eqxopt.APOLLO(0.1, rank=2).init(Model()).state
    assert state.layers[0].weight.mu.shape == (1, 2, 4)
    assert state.layers[1].weight.mu.shape == (1, 2, 4)
    assert state.layers[0].bias is None


def test_a_first_gradient_of_zero_limits_nothing():
    x = jnp.ones((3, 4))
    opt = eqxopt.APOLLO(0.1, rank=2).init(x)
    x, opt = opt.apply(0 * x, x)
    new, _ = opt.apply(x, x)
    assert np.max(np.abs(new - x)) > 1e-3


def test_options():
    with pytest.raises(ValueError, match="'channel', 'tensor'"):
        eqxopt.APOLLO(0.1, scale_type="row")
    with pytest.raises(ValueError, match=r"`rank` must be an integer"):
        eqxopt.APOLLO(0.1, rank=0)
