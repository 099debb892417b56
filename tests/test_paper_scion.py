"""Scion as in its authors' code, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    # Never small: of a matrix near 0 rounding is all that there is to be made large.
    return np.random.default_rng(step).normal(size=x.shape) + 0.2 * x


def newton_schulz(m, eps, steps=5):
    a, b, c = 3.4445, -4.775, 2.0315
    x = m.T if len(m) > len(m[0]) else m
    x = x / (np.linalg.norm(x) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(m) > len(m[0]) else x


def scion(theta, rate, radius, momentum, eps, norm, constrained):
    rows, columns = theta.shape
    buffer = np.zeros_like(theta)
    for t in range(1, 26):
        buffer = (1 - momentum) * buffer + momentum * gradient(theta, t)
        if norm == "sign":
            corner = np.sign(buffer) / columns
        else:
            corner = np.sqrt(rows / columns) * newton_schulz(buffer, eps)
        if constrained:
            theta = (1 - rate) * theta
        theta = theta - rate * radius * corner
    return theta


@pytest.mark.parametrize("shape", [(5, 3), (3, 7)])
@pytest.mark.parametrize(
    "options",
    [
        (0.1, 1e-7, "spectral", True),
        (0.3, 1e-2, "spectral", False),
        (0.1, 1e-7, "sign", True),
        (0.3, 1e-7, "sign", False),
    ],
)
def test_paper(shape, options, x64):
    theta = np.random.default_rng(0).normal(size=shape)
    momentum, eps, norm, constrained = options
    params = {"w": jnp.asarray(theta), "b": jnp.asarray(theta[0])}
    opt = eqxopt.Scion(
        0.05, 3.0, 1 - momentum, eps=eps, norm=norm, constrained=constrained
    ).init(params)
    for t in range(1, 26):
        grads = {k: jnp.asarray(gradient(np.asarray(x), t)) for k, x in params.items()}
        params, opt = opt.apply(grads, params)
    expected = scion(theta, 0.05, 3.0, *options)
    np.testing.assert_allclose(params["w"], expected, rtol=1e-10, atol=1e-12)
    assert not np.array_equal(params["b"], theta[0])


@pytest.mark.parametrize("norm, order", [("spectral", 2), ("sign", np.inf)])
def test_it_stays_in_the_ball(norm, order, x64):
    """Whatever the gradients are; here steps towards its border."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    opt = eqxopt.Scion(
        0.5, 2.0, norm=norm, ns_coefficients="polar-express", ns_steps=9
    ).init(x)
    for _ in range(40):
        x, opt = opt.apply(-jnp.ones_like(x) - jnp.eye(3, 4), x)
    if norm == "spectral":
        assert np.linalg.norm(x, order) == pytest.approx(2 * np.sqrt(3 / 4), rel=1e-5)
    else:
        np.testing.assert_allclose(x, 2 / 4, rtol=1e-8)


def test_a_stack_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    for norm in ("spectral", "sign"):
        opt = eqxopt.Scion(0.1, norm=norm, matrices="stack").init(stack)
        one = eqxopt.Scion(0.1, norm=norm).init(stack[0])
        expected = [one.apply(x, x)[0] for x in stack]
        got, _ = opt.apply(stack, stack)
        np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-12, atol=1e-12)


def test_options():
    with pytest.raises(ValueError, match="`norm` is one of 'spectral', 'sign'"):
        eqxopt.Scion(0.1, norm="frobenius")
    with pytest.raises(ValueError, match="`Scion.*`ns_steps` must be an integer"):
        eqxopt.Scion(0.1, ns_steps=0)
