"""Shampoo with running means and Adam's lengths, in NumPy, and its matrix powers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt
from eqxopt._math.linalg import inverse_power


def gradient(x, step):
    # Random, so that there is little for rounding to make large.
    return np.random.default_rng(step).normal(size=x.shape) + 0.2 * x


def power(factor, exponent):
    values, vectors = np.linalg.eigh(factor)
    return vectors @ np.diag(values**-exponent) @ vectors.T


def shampoo(theta, rate, b1, b2, eps, decay, exponent, frequency, limit, graft_eps):
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    factors = [np.zeros((n, n)) for n in theta.shape]
    roots = [np.eye(n) for n in theta.shape]
    for t in range(1, 26):
        g = gradient(np.zeros(theta.shape), t) + 0.2 * theta
        factors[0] = b2 * factors[0] + (1 - b2) * g @ g.T
        factors[1] = b2 * factors[1] + (1 - b2) * g.T @ g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        if t % frequency == 0:
            for k, n in enumerate(theta.shape):
                if n <= limit:
                    whole = factors[k] / (1 - b2**t) + eps * np.eye(n)
                    roots[k] = power(whole, exponent)
        mean = m / (1 - b1**t)
        step = roots[0] @ mean @ roots[1]
        if graft_eps is not None:
            adam = mean / (np.sqrt(v / (1 - b2**t)) + graft_eps)
            step = step * np.linalg.norm(adam) / np.linalg.norm(step)
            step = adam if t < frequency else step
        theta = theta - rate * (step + decay * theta)
    return theta


def run(opt, params, steps):
    """The parameters after steps along `gradient`, compiled as one program."""
    each = [
        jax.tree.map(lambda x: gradient(np.zeros(x.shape), t), params)
        for t in range(1, steps + 1)
    ]

    def body(carry, noise):
        params, opt = carry
        grads = jax.tree.map(lambda n, x: n + 0.2 * x, noise, params)
        return opt.apply(grads, params), None

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *each)
    return jax.lax.scan(body, (params, opt.init(params)), stacked)[0]


@pytest.mark.parametrize(
    "options, frequency, limit, graft_eps",
    [
        ((0.9, 0.999, 1e-12, 0.0, 0.25), 10, 10000, 1e-8),
        ((0.8, 0.9, 1e-3, 0.3, 0.5), 1, 4, 1e-2),
        ((0.5, 0.99, 1e-4, 0.1, 0.3), 3, 10000, None),
    ],
)
def test_paper(options, frequency, limit, graft_eps, x64):
    shapes = {"tall": (5, 4), "wide": (3, 4), "kernel": (3, 2, 2), "bias": (4,)}
    start = {k: np.random.default_rng(9).normal(size=s) for k, s in shapes.items()}
    opt = eqxopt.Shampoo(
        0.05,
        *options[:4],
        None,
        options[4],
        frequency,
        limit,
        grafting=graft_eps is not None,
        graft_eps=graft_eps or 0.0,
        fallback=eqxopt.Adam(0.01),
    )
    params, opt = run(opt, jax.tree.map(jnp.asarray, start), 25)
    bias, _ = run(eqxopt.Adam(0.01), jnp.asarray(start.pop("bias")), 25)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-12)
    assert (opt.state["tall"].nu is None) == (graft_eps is None)
    for name, theta in start.items():
        # The same numbers as those of the flattened array.
        got = np.asarray(params[name]).reshape(len(theta), -1)
        expected = shampoo(
            theta.reshape(len(theta), -1), 0.05, *options, frequency, limit, graft_eps
        )
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_one_gradient_is_made_orthogonal(x64):
    """With p = 1/4 and nothing else, the first direction has singular values 1."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
    opt = eqxopt.Shampoo(1.0, precondition_frequency=1, grafting=False).init(x)
    updates, _ = opt.update(x, x)
    np.testing.assert_allclose(np.linalg.svd(updates)[1], 1, rtol=1e-6)


def test_powers_are_only_made_when_they_are_due():
    params = jnp.ones((3, 4))
    opt = eqxopt.Shampoo(0.1, precondition_frequency=5).init(params)
    roots = []
    for t in range(12):
        grads = jnp.asarray(gradient(np.zeros((3, 4)), t), jnp.float32)
        params, opt = opt.apply(grads, params)
        roots.append(np.asarray(opt.state.roots.left))
    changed = [
        t + 1 for t in range(1, 12) if not np.array_equal(roots[t], roots[t - 1])
    ]
    assert changed == [5, 10]


def test_matrices_of_one_size_are_made_together():
    """Three sizes are decomposed three times, however many matrices there are."""
    params = {str(i): jnp.ones((3, 4)) for i in range(4)} | {"last": jnp.ones((4, 5))}
    opt = eqxopt.Shampoo(0.1).init(params)
    text = jax.jit(lambda o, p: o.apply(p, p)).lower(opt, params).as_text()
    assert text.count("@lapack_ssyevd") == 3


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 3), (3, 0)])
@pytest.mark.parametrize("grafting", [True, False])
def test_narrow_matrices_and_no_gradient(shape, grafting):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    opt = eqxopt.Shampoo(
        0.1, precondition_frequency=1, matrices=True, grafting=grafting
    ).init(x)
    new, opt = opt.apply(0 * x, x)
    np.testing.assert_array_equal(new, x)
    new, opt = opt.apply(x, x)
    assert np.all(np.isfinite(new)) and np.any(new != x) == (x.size > 0)


def test_a_stack_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 3)))
    opt = eqxopt.Shampoo(0.1, precondition_frequency=2, matrices="stack").init(stack)
    alone = [eqxopt.Shampoo(0.1, precondition_frequency=2).init(x) for x in stack]
    expected = list(stack)
    for t in range(4):
        grads = jnp.asarray(gradient(np.zeros(stack.shape), t))
        stack, opt = opt.apply(grads, stack)
        for i, x in enumerate(expected):
            expected[i], alone[i] = alone[i].apply(grads[i], x)
    np.testing.assert_allclose(stack, jnp.stack(expected), rtol=1e-9, atol=1e-10)


def test_choices_per_parameter_in_one_batch(x64):
    params = {k: jnp.asarray(gradient(np.zeros((3, 4)), i)) for i, k in enumerate("ab")}
    by_path = lambda low, high: lambda path, x: low if "a" in path else high
    opt = eqxopt.Shampoo(
        0.1,
        exponent=by_path(0.2, 0.5),
        eps=by_path(1e-3, 1e-2),
        precondition_frequency=2,
    )
    got, _ = run(opt, params, 3)
    for name, exponent, eps in (("a", 0.2, 1e-3), ("b", 0.5, 1e-2)):
        alone = eqxopt.Shampoo(
            0.1, exponent=exponent, eps=eps, precondition_frequency=2
        )
        expected, _ = run(alone, params[name], 3)
        np.testing.assert_allclose(got[name], expected, rtol=1e-10, atol=1e-12)


class TestInversePower:
    @pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0])
    @pytest.mark.parametrize("kind", ["apart", "equal", "close"])
    def test_derivatives(self, exponent, kind, x64):
        """As those of finite differences, also where eigenvalues meet."""
        spread = {"apart": [0.5, 1, 3], "equal": [1, 1, 2], "close": [1, 1 + 1e-9, 2]}
        rng = np.random.default_rng(0)
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        x = jnp.asarray(q @ np.diag(spread[kind]) @ q.T)[None]
        shift = rng.normal(size=(1, 3, 3))
        direction = jnp.asarray(shift + shift.swapaxes(1, 2))

        def power(s):
            return inverse_power(x + s * direction, 0.1 + s, exponent + 0.5 * s)

        zero, h = jnp.zeros(()), 1e-5
        _, slope = jax.jvp(power, (zero,), (jnp.ones(()),))
        np.testing.assert_allclose(
            slope, (power(zero + h) - power(zero - h)) / (2 * h), rtol=1e-6, atol=1e-8
        )
        backward = jax.jacrev(power)(zero)
        np.testing.assert_allclose(backward, slope, rtol=1e-10, atol=1e-12)

    def test_complex(self, x64):
        rng = np.random.default_rng(0)
        g = rng.normal(size=(2, 3, 5)) + 1j * rng.normal(size=(2, 3, 5))
        x = jnp.asarray(g @ g.conj().swapaxes(1, 2))
        eps, exponent = jnp.asarray(1e-9), jnp.asarray(0.5)
        root = inverse_power(x, eps, exponent)
        np.testing.assert_allclose(
            root @ x @ root, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-8
        )
        slope = jax.grad(lambda e: jnp.sum(jnp.abs(inverse_power(x, e, exponent))))(eps)
        assert np.all(np.isfinite(slope))

    def test_of_zero_in_float32(self):
        x, eps = jnp.zeros((1, 3, 3)), jnp.asarray(1e-12)
        root = inverse_power(x, eps, jnp.asarray(0.25))
        np.testing.assert_allclose(root[0], 1e3 * np.eye(3), rtol=1e-5)


def test_options():
    for field in ("precondition_frequency", "max_precond_dim"):
        with pytest.raises(ValueError, match=f"`Shampoo.*`{field}` must be an integer"):
            eqxopt.Shampoo(0.1, **{field: 0})
