"""NorMuon as in its authors' code and as in the paper, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


COEFFICIENTS = (3.4445, -4.775, 2.0315)


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def newton_schulz(m, eps, steps=5):
    a, b, c = COEFFICIENTS
    x = m / (np.linalg.norm(m) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def normuon(theta, rate, mu, beta2, eps, decay, rms, nesterov):
    m, v = np.zeros_like(theta), np.zeros(len(theta))
    rows, columns = theta.shape
    for t in range(1, 26):
        g = gradient(theta, t)
        m = mu * m + (1 - mu) * g
        mean = m / (1 - mu**t)
        if nesterov:
            mean = mu * m / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t)
        o = newton_schulz(mean, eps)
        v = beta2 * v + (1 - beta2) * np.mean(o**2, axis=1)
        scaled = o / (np.sqrt(v) + eps)[:, None]
        if rms is None:
            size = max(1, rows / columns) ** 0.5 * np.linalg.norm(o)
        else:
            size = rms * np.sqrt(rows * columns)
        scaled *= size / np.linalg.norm(scaled)
        theta = theta - rate * (scaled + decay * theta)
    return theta


@pytest.mark.parametrize("shape", [(5, 3), (3, 7)])
@pytest.mark.parametrize(
    "options",
    [
        (0.95, 0.95, 1e-8, 0.01, None, False),
        (0.8, 0.5, 1e-2, 0.3, 0.2, True),
    ],
)
def test_paper(shape, options, x64):
    theta = np.random.default_rng(0).normal(size=shape)
    mu, beta2, eps, decay, rms, nesterov = options
    opt = eqxopt.NorMuon(
        0.05,
        mu,
        beta2,
        eps=eps,
        weight_decay=decay,
        consistent_rms=rms,
        nesterov=nesterov,
    )
    params = {"w": jnp.asarray(theta), "b": jnp.asarray(theta[0])}
    opt = opt.init(params)
    alone = eqxopt.AdamW(3e-4, b2=0.95, weight_decay=0.0)
    bias, alone = params["b"], alone.init(params["b"])
    for t in range(1, 26):
        grads = {k: jnp.asarray(gradient(np.asarray(x), t)) for k, x in params.items()}
        bias, alone = alone.apply(grads["b"], bias)
        params, opt = opt.apply(grads, params)
    np.testing.assert_allclose(
        params["w"], normuon(theta, 0.05, *options), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(params["b"], bias, rtol=1e-12)


def test_a_stack_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    opt = eqxopt.NorMuon(0.1, matrices="stack").init(stack)
    one = [eqxopt.NorMuon(0.1).init(x) for x in stack]
    expected = list(stack)
    for _ in range(3):
        stack, opt = opt.apply(stack, stack)
        for i, x in enumerate(expected):
            expected[i], one[i] = one[i].apply(x, x)
    np.testing.assert_allclose(stack, jnp.stack(expected), rtol=1e-12, atol=1e-12)


def test_rows_of_zeros(x64):
    """Neurons that are dead stay where they are, also without eps."""
    x = jnp.asarray([[1.0, 2.0], [0.0, 0.0], [0.5, -1.0]])
    updates, _ = eqxopt.NorMuon(0.1, eps=0.0, weight_decay=0.0).init(x).update(x, x)
    assert np.all(np.isfinite(updates)) and np.all(updates[1] == 0)
    updates, _ = eqxopt.NorMuon(0.1, eps=0.0).init(x).update(0 * x, 0 * x)
    np.testing.assert_array_equal(updates, 0.0)


def test_rows_are_evened_out(x64):
    """Rows of a tall orthogonal matrix differ in size; of the first step they do not,
    and its norm is that of Muon's."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    ours, _ = eqxopt.NorMuon(1.0, weight_decay=0.0).init(x).update(x, x)
    muon, _ = eqxopt.Muon(1.0, nesterov=False).init(x).update(x, x)
    sizes = np.linalg.norm(ours, axis=1)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-6)
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(muon), rel=1e-10)


def test_options():
    with pytest.raises(ValueError, match="`NorMuon.*`ns_steps` must be an integer"):
        eqxopt.NorMuon(0.1, ns_steps=0)
