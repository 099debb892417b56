"""SM3-II of Anil et al., 2019, transcribed: an explicit cover, entry by entry."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def slices(shape):
    """The cover: for each axis and each index along it, the entries with that index;
    for a scalar, its one entry."""
    entries = list(itertools.product(*(range(n) for n in shape)))
    if not shape:
        return [entries]
    return [
        [i for i in entries if i[axis] == k]
        for axis, n in enumerate(shape)
        for k in range(n)
    ]


def sm3(w, gradients, eta, beta):
    w = w.copy()
    cover = slices(w.shape)
    mu = [0.0] * len(cover)
    momentum = np.zeros_like(w)
    for gradient in gradients:
        g = gradient(w)
        nu = np.zeros_like(w)
        mu_next = [0.0] * len(cover)
        scaled = np.zeros_like(w)
        for i in np.ndindex(w.shape):
            nu[i] = min(mu[r] for r, s in enumerate(cover) if i in s) + g[i] ** 2
            scaled[i] = g[i] / np.sqrt(nu[i]) if nu[i] > 0 else 0.0
            for r, s in enumerate(cover):
                if i in s:
                    mu_next[r] = max(mu_next[r], nu[i])
        mu = mu_next
        momentum = beta * momentum + (1 - beta) * scaled
        w = w - eta * momentum
    return w


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_paper(shape, momentum, x64):
    rng = np.random.default_rng(0)
    start, target = rng.normal(size=shape), rng.normal(size=(25, *shape))
    target[3] = start if momentum is None else target[3]
    frozen = rng.random(shape) < 0.2  # gradients that are 0 throughout: 0 / 0 is 0
    gradients = [lambda w, a=a: np.where(frozen, 0.0, np.sin(w - a)) for a in target]
    expected = sm3(np.asarray(start), gradients, 0.1, momentum or 0.0)

    w = jnp.asarray(start)
    opt = eqxopt.SM3(0.1, momentum, eps=0.0).init(w)
    step = jax.jit(lambda w, opt, g: opt.apply(g, w))
    for gradient in gradients:
        w, opt = step(w, opt, jnp.asarray(gradient(np.asarray(w))))
    np.testing.assert_allclose(w, expected, rtol=1e-10, atol=1e-10)


def test_memory():
    opt = eqxopt.SM3(0.1, momentum=None).init(jnp.ones((30, 40, 50)))
    assert [mu.shape for mu in opt.state.bounds] == [(30,), (40,), (50,)]
    assert opt.state.mean is None
