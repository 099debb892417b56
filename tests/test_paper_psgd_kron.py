"""PSGD with Kronecker factors as in distributed-kron, transcribed, with the noise that
ours has drawn. It never balances the factors: that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt
from eqxopt._fields.keys import own_keys


def norm_lower_bound(a):
    largest = np.max(np.abs(a))
    a = a / largest
    i = np.argmax(np.sum(a * a, axis=0))
    x = a[:, i] @ a
    return largest * np.linalg.norm((x / np.linalg.norm(x)) @ a.T)


def stepped(q, term1, term2, eta):
    if q.ndim == 1:
        below = np.max(np.abs(np.diag(term1 + term2)))
        return q - eta / below * np.diag(term1 - term2) * q
    return q - eta / norm_lower_bound(term1 + term2) * np.triu(term1 - term2) @ q


def full(q):
    return np.diag(q) if q.ndim == 1 else q


def kron(x, gradients, noises, factors, probability, lr, b1, lam, eta):
    """Of a matrix; a vector is a column with one factor, the other being 1."""
    left, right = factors
    mean, waited = np.zeros_like(x), 0
    for t, (gradient, v) in enumerate(zip(gradients, noises), 1):
        mean = b1 * mean + (1 - b1) * gradient(x)
        m_hat = mean / (1 - b1**t)
        waited += 1
        if waited >= 1 / probability(t):
            waited = 0
            damping = np.sqrt(np.finfo(np.float32).eps) * np.mean(np.abs(m_hat))
            ql, qr = full(left), full(right)
            a = ql @ (m_hat + damping * v) @ qr.T
            b = np.linalg.inv(ql).T @ v @ np.linalg.inv(qr)
            left = stepped(left, a @ a.T, b @ b.T, eta)
            if x.shape[1] > 1:
                right = stepped(right, a.T @ a, b.T @ b, eta)
        ql, qr = full(left), full(right)
        u = ql.T @ ql @ m_hat @ qr.T @ qr
        u = u / max(1, np.sqrt(np.mean(u**2)) / 1.1)
        x = x - lr * (u + lam * x)
    return x


def default_probability(n):
    return np.clip(np.exp(-0.001 * (n - 500)), 0.03, 1)


# A shape, the matrix that it is, options, and the factors at the start for a scale s.
CASES = {
    "matrix": ((5, 4), (5, 4), {}, lambda s: (s * np.eye(5), s * np.eye(4))),
    "one long side": (
        (5, 4),
        (5, 4),
        {"max_size_triangular": 4},
        lambda s: (s * np.ones(5), s * np.eye(4)),
    ),
    "kernel": ((4, 3, 2), (4, 6), {}, lambda s: (s * np.eye(4), s * np.eye(6))),
    "no matrix": (
        (5, 4),
        (5, 4),
        {"matrices": False},
        lambda s: (s * np.ones(5), s * np.ones(4)),
    ),
    "vector": ((7,), (7, 1), {}, lambda s: (s**2 * np.ones(7), np.ones(1))),
    "scalar": ((), (1, 1), {}, lambda s: (s**2 * np.ones(1), np.ones(1))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("default", [True, False])
def test_reference(case, default, x64):
    shape, matrix, options, factors = CASES[case]
    rng = np.random.default_rng(0)
    start, shifts = rng.normal(size=matrix), rng.normal(size=(25, *matrix))
    gradients = [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in shifts]
    lr, b1, lam, eta, scale = 3e-4, 0.9, 0.0, 0.1, 1.0
    probability = default_probability
    if not default:
        lr, b1, lam, eta, scale = 0.02, 0.8, 0.1, 0.3, 0.5
        probability = lambda n: 0.4
        options = options | {
            "preconditioner_update_probability": 0.4,
            "preconditioner_lr": eta,
            "preconditioner_init_scale": scale,
        }

    x = jnp.asarray(start.reshape(shape))
    opt = eqxopt.PSGDKron(lr, b1, lam, seed=3, **options).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    noises = []
    for gradient in gradients:
        key = own_keys(opt, opt.count, 1)[0]["seed"]
        draw = jax.random.normal(jax.random.wrap_key_data(key), (1, *matrix), float)
        noises.append(np.asarray(draw[0]))
        grad = gradient(np.asarray(x).reshape(matrix)).reshape(shape)
        x, opt = step(x, opt, jnp.asarray(grad))

    expected = kron(
        start, gradients, noises, factors(scale**0.5), probability, lr, b1, lam, eta
    )
    np.testing.assert_allclose(x, expected.reshape(shape), rtol=1e-10, atol=1e-10)


def test_it_whitens(x64):
    """Gradients of any scale and correlation become updates of size 1."""
    mix = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)))

    def body(opt, key):
        grad = 0.1 * mix @ jax.random.normal(key, (4, 3))
        updates, opt = opt.update(grad, jnp.zeros((4, 3)))
        return opt, updates

    opt = eqxopt.PSGDKron(1.0, 0.0, preconditioner_update_probability=1.0)
    keys = jax.random.split(jax.random.key(0), 4000)
    _, updates = jax.lax.scan(body, opt.init(jnp.zeros((4, 3))), keys)
    last = np.asarray(updates[2000:])
    covariance = np.einsum("kij,klj->il", last, last) / (3 * len(last))
    np.testing.assert_allclose(np.mean(last**2), 1.0, rtol=0.15)
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.25)


def test_a_stack_is_its_matrices(x64):
    """Also in the clipping of each; they only draw other noise."""
    stack = jax.random.normal(jax.random.key(0), (2, 5, 3), float)
    options = {"preconditioner_update_probability": 0.0}
    one = eqxopt.PSGDKron(0.1, **options).init(stack[0])
    many = eqxopt.PSGDKron(0.1, matrices="stack", **options).init(stack)
    scales = jnp.asarray([0.1, 9.0])
    expected = [one.apply(s * g, g)[0] for s, g in zip(scales, stack)]
    got, _ = many.apply(scales[:, None, None] * stack, stack)
    np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-12, atol=1e-12)
    assert many.state.left.shape == (2, 5, 5)


def test_mistakes():
    with pytest.raises(
        ValueError, match=r"`PSGDKron.matrices`, for \['b'\], has shape"
    ):
        eqxopt.PSGDKron(0.1, matrices=True).init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match="`max_size_triangular` must be an integer"):
        eqxopt.PSGDKron(0.1, max_size_triangular=0)
