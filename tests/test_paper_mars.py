"""MARS-AdamW of Yuan et al., 2024, transcribed: Algorithm 2 with the last gradient as
it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def mars(x, gradients, lr, b1, b2, gamma, eps, lam):
    m, v, last = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        c = g + gamma * b1 / (1 - b1) * (g - last)
        if np.linalg.norm(c) > 1:
            c = c / np.linalg.norm(c)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        x = x - lr * (m_hat / (np.sqrt(v_hat) + eps) + lam * x)
        last = g
    return x


@pytest.mark.parametrize("shape", [(4, 3), (7,)])
@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize(
    "options",
    [(3e-3, 0.95, 0.99, 0.025, 1e-8, 0.0), (0.02, 0.8, 0.9, 0.3, 1e-3, 0.1)],
)
def test_paper(shape, scale, options, x64):
    """With gradients that are rescaled, and with some that are small enough."""
    rng = np.random.default_rng(0)
    start, shifts = rng.normal(size=shape), rng.normal(size=(25, *shape))
    gradients = [lambda x, a=a: scale * np.sin(3 * x - a) * np.abs(a) for a in shifts]
    expected = mars(start, gradients, *options)

    x = jnp.asarray(start)
    opt = eqxopt.MARS(*options).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    for gradient in gradients:
        x, opt = step(x, opt, jnp.asarray(gradient(np.asarray(x))))
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)
