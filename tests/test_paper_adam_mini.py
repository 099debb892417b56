"""Adam-mini of Zhang et al., 2024, transcribed: Adam with the mean of the squares of
each block."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def adam_mini(x, gradients, partition, lr, b1, b2, eps, lam):
    """`partition` gives each entry the number of its block."""
    m = np.zeros_like(x)
    v = np.zeros(partition.max() + 1)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        x = x - lr * lam * x
        m = b1 * m + (1 - b1) * g
        for b in range(len(v)):
            v[b] = b2 * v[b] + (1 - b2) * np.mean(g[partition == b] ** 2)
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        x = x - lr * m_hat / (np.sqrt(v_hat[partition]) + eps)
    return x


EACH = np.arange(24).reshape(6, 4)
PARTITIONS = {
    "row": EACH // 4,
    "tensor": 0 * EACH,
    "entry": EACH,
    3: EACH // 8,  # three heads of two outputs each
    12: EACH // 2,
}


@pytest.mark.parametrize("blocks", PARTITIONS)
@pytest.mark.parametrize(
    "options", [(0.01, 0.9, 0.999, 1e-8, 0.0), (0.02, 0.8, 0.9, 1e-3, 0.1)]
)
def test_paper(blocks, options, x64):
    rng = np.random.default_rng(0)
    start, shifts = rng.normal(size=(6, 4)), rng.normal(size=(25, 6, 4))
    gradients = [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in shifts]
    expected = adam_mini(start, gradients, PARTITIONS[blocks], *options)

    x = jnp.asarray(start)
    opt = eqxopt.AdamMini(*options, blocks=blocks).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    for gradient in gradients:
        x, opt = step(x, opt, jnp.asarray(gradient(np.asarray(x))))
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)


def test_default_blocks():
    key = jax.random.key(0)
    model = {
        "linear": eqx.nn.Linear(3, 4, key=key),
        "convolution": eqx.nn.Conv2d(3, 4, 2, key=key),
        "norm": eqx.nn.LayerNorm(5),
    }
    state = eqxopt.AdamMini(0.1).init(model).state
    assert state["linear"].weight.nu.shape == (4,)
    assert state["linear"].bias.nu.shape == (4,)
    assert state["convolution"].weight.nu.shape == (4,)
    assert state["convolution"].bias.nu.shape == (4,)
    assert state["norm"].weight.nu.shape == ()
    assert state["norm"].bias.nu.shape == (5,)


def test_errors():
    params = {"w": jnp.ones((6, 4))}
    with pytest.raises(ValueError, match=r"AdamMini.blocks`, for \['w'\], of.*is 5"):
        eqxopt.AdamMini(0.1, blocks=5).init(params)
    for bad in ("head", True, 0, 2.0):
        with pytest.raises(TypeError, match="'tensor', 'row', 'entry', or a number"):
            eqxopt.AdamMini(0.1, blocks={"w": bad})
