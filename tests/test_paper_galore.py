"""GaLore of Zhao et al., 2024, transcribed: Algorithm 2, with the longer side projected
as optax does; and optax itself, which is exact to float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Model, nested_loss, nested_params

import eqxopt


def galore(x, gradients, r, gap, lr, scale, lam, b1, b2, eps):
    n, m = x.shape
    r, left = min(r, n, m), n >= m
    mean, v = 0.0, 0.0
    for t, gradient in enumerate(gradients):
        g = gradient(x)
        if t % gap == 0:
            u, _, vh = np.linalg.svd(g, full_matrices=False)
            p, q = u[:, :r], vh[:r].T
        low = p.T @ g if left else g @ q
        mean = b1 * mean + (1 - b1) * low
        v = b2 * v + (1 - b2) * low**2
        m_hat, v_hat = mean / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
        d = m_hat / (np.sqrt(v_hat) + eps)
        x = x - lr * (scale * (p @ d if left else d @ q.T) + lam * x)
    return x


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("rank", [2, 100])
@pytest.mark.parametrize("gap", [100, 7])
def test_paper(shape, rank, gap, x64):
    rng = np.random.default_rng(0)
    start, shifts = rng.normal(size=shape), rng.normal(size=(25, *shape))
    gradients = [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in shifts]
    options = 0.02, 0.5, 0.1, 0.8, 0.9, 1e-3
    expected = galore(start, gradients, rank, gap, *options)

    lr, scale, lam, b1, b2, eps = options
    x = jnp.asarray(start)
    opt = eqxopt.GaLore(lr, rank, gap, scale, lam, b1=b1, b2=b2, eps=eps).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    for gradient in gradients:
        x, opt = step(x, opt, jnp.asarray(gradient(np.asarray(x))))
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)


def axes(params):
    """All axes after the first are inputs."""
    numbers = optax.contrib.GaLoreDimensionNumbers
    return jax.tree.map(
        lambda x: numbers(0, tuple(range(1, x.ndim))) if x.ndim > 1 else None, params
    )


@pytest.mark.parametrize(
    "options", [{}, {"rank": 2, "update_proj_gap": 6, "scale": 0.5}]
)
def test_optax(options):
    """With its Adam as the fallback, which it does not scale."""
    ours = theirs = nested_params()
    opt = eqxopt.GaLore(
        0.02, weight_decay=0.1, fallback=eqxopt.AdamW(0.02, weight_decay=0.1), **options
    ).init(ours)
    tx = optax.contrib.galore(
        0.02, weight_decay=0.1, weight_dimension_numbers=axes, **options
    )
    state, update = tx.init(theirs), jax.jit(tx.update)
    for step in range(25):
        ours, opt = opt.apply(jax.grad(nested_loss)(ours, float(step)), ours)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            grads = jax.grad(nested_loss)(theirs, float(step))
            updates, state = update(grads, state, theirs)
            theirs = optax.apply_updates(theirs, updates)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_memory():
    state = eqxopt.GaLore(0.1, rank=2).init(Model()).state
    assert state.layers[0].weight.basis.shape == (1, 4, 2)
    assert state.layers[0].weight.mu.shape == (1, 2, 3)
    assert state.layers[0].bias is None


def test_a_first_gradient_that_comes_late():
    x = {"a": jnp.eye(3), "b": jnp.eye(3)}
    opt = eqxopt.GaLore(0.1, rank=1).init(x)
    x, opt = opt.apply({"a": x["a"], "b": None}, x)
    new, _ = opt.apply(x, x)
    assert not np.array_equal(new["b"], x["b"])


def test_options():
    with pytest.raises(ValueError, match=r"`GaLore\(rank=0\)`: `rank` must be an int"):
        eqxopt.GaLore(0.1, rank=0)
    with pytest.raises(ValueError, match="`update_proj_gap` must be an integer"):
        eqxopt.GaLore(0.1, update_proj_gap=0)
