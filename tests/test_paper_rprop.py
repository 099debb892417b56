"""iRprop⁻ of Igel and Hüsken, 2003, transcribed entry by entry."""

import jax
import jax.numpy as jnp
import numpy as np

import eqxopt


def irprop_minus(w, gradients, delta0, eta_minus, eta_plus, delta_min, delta_max):
    w = w.copy()
    delta = np.full_like(w, delta0)
    last = np.zeros_like(w)
    for gradient in gradients:
        g = gradient(w)
        for i in np.ndindex(w.shape):
            if last[i] * g[i] > 0:
                delta[i] = min(delta[i] * eta_plus, delta_max)
            elif last[i] * g[i] < 0:
                delta[i] = max(delta[i] * eta_minus, delta_min)
                g[i] = 0.0
            w[i] = w[i] - np.sign(g[i]) * delta[i]
            last[i] = g[i]
    return w


def test_paper(x64):
    rng = np.random.default_rng(0)
    start, target = rng.normal(size=(4, 3)), rng.normal(size=(25, 4, 3))
    gradients = [lambda w, a=a: np.sin(w - 0.5 * a) for a in target]
    options = (0.1, 0.4, 1.3, 0.03, 0.4)
    expected = irprop_minus(start, gradients, *options)

    w = jnp.asarray(start)
    opt = eqxopt.Rprop(*options, delayed=False).init(w)
    step = jax.jit(lambda w, opt, g: opt.apply(g, w))
    for gradient in gradients:
        w, opt = step(w, opt, jnp.asarray(gradient(np.asarray(w))))
    np.testing.assert_allclose(w, expected, rtol=1e-10, atol=1e-10)
