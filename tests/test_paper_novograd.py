"""NovoGrad as in Algorithm 1 of the paper, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def novograd(w, lam, beta1, beta2, eps, d, steps, first_eps):
    for t in range(1, steps + 1):
        g = gradient(w, t)
        sq_norm = np.linalg.norm(g.ravel()) ** 2
        if t == 1:
            v = sq_norm
            m = g / (np.sqrt(v) + first_eps) + d * w
        else:
            v = beta2 * v + (1 - beta2) * sq_norm
            m = beta1 * m + (g / (np.sqrt(v) + eps) + d * w)
        w = w - lam * m
    return w


# The paper's first step is without epsilon, and ours is not.
@pytest.mark.parametrize("eps, first_eps", [(0.0, 0.0), (1e-2, 1e-2)])
def test_paper(eps, first_eps, x64):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=shape) for shape in [(3,), (4, 3), (2, 2, 3)]]
    params = [jnp.asarray(x) for x in layers]
    opt = eqxopt.NovoGrad(0.05, 0.8, 0.6, eps, weight_decay=0.1).init(params)
    for t in range(1, 26):
        grads = [jnp.asarray(gradient(np.asarray(x), t)) for x in params]
        params, opt = opt.apply(grads, params)
    for ours, w in zip(params, layers):
        paper = novograd(w, 0.05, 0.8, 0.6, eps, 0.1, 25, first_eps)
        np.testing.assert_allclose(ours, paper, rtol=1e-10)
