"""KL-Shampoo as in its authors' code, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    # Random, so that eigenvalues are apart and the bases well determined.
    return np.random.default_rng(step).normal(size=x.shape) + 0.2 * x


class KLShampoo:
    """One matrix; a side that is False is left as it is."""

    def __init__(self, b1, b2, eps, decay, init, frequency, sides):
        self.b1, self.b2, self.eps, self.decay = b1, b2, eps, decay
        self.init, self.frequency, self.sides = init, frequency, sides
        self.step, self.q = 0, None

    def accumulate(self, k, outer, length):
        self.s[k] = self.b2 * self.s[k] + (1 - self.b2) * outer / length

    def __call__(self, theta, g, rate):
        rows, columns = g.shape
        if self.q is None:
            self.m = np.zeros_like(g)
            self.s = [np.zeros((n, n)) for n in g.shape]
            self.accumulate(0, g @ g.T, columns)
            self.accumulate(1, g.T @ g, rows)
            self.q = [np.linalg.eigh(s)[1][:, ::-1] for s in self.s]
            self.root = [np.full(n, self.init**-0.5) for n in g.shape]
            for k in range(2):
                if not self.sides[k]:
                    self.q[k], self.root[k] = np.eye(g.shape[k]), np.ones(g.shape[k])
            return theta
        self.step += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        scale = np.outer(*self.root)
        scale = scale / (1 + self.eps * scale)
        left, right = self.q
        new = theta - rate * left @ (left.T @ self.m @ right * scale) @ right.T
        new = new - rate * self.decay * theta
        self.update(g)
        return new

    def update(self, g):
        rows, columns = g.shape
        left, right = self.q
        inverses = [q @ np.diag(r**2) @ q.T for q, r in zip(self.q, self.root)]
        self.accumulate(0, g @ inverses[1] @ g.T, columns)
        self.accumulate(1, g.T @ inverses[0] @ g, rows)
        both = left.T @ g @ right
        diagonals = [
            np.mean((both * self.root[1]) ** 2, axis=1),
            np.mean((both * self.root[0][:, None]) ** 2, axis=0),
        ]
        for k in range(2):
            if self.sides[k]:
                values = self.root[k] ** -2.0
                values = self.b2 * values + (1 - self.b2) * diagonals[k]
                largest = max(10, min(g.shape[k], 4000))
                self.root[k] = np.minimum(values**-0.5, largest)
                if self.step % self.frequency == 0:
                    self.q[k] = np.linalg.qr(self.s[k] @ self.q[k])[0]


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
    "options, limit",
    [
        ((0.9, 0.98, 1e-8, 0.01, 0.1, 10), 10000),
        ((0.8, 0.7, 1e-1, 0.3, 1e-4, 1), 4),
        ((0.5, 0.9, 1e-3, 0.0, 2.0, 3), 1),
    ],
)
def test_paper(options, limit, x64):
    shapes = {"tall": (5, 4), "wide": (3, 4), "kernel": (3, 2, 2), "bias": (4,)}
    start = {k: np.random.default_rng(9).normal(size=s) for k, s in shapes.items()}
    opt = eqxopt.KLShampoo(
        0.05, *options[:4], None, *options[4:], limit, fallback=eqxopt.Adam(0.01)
    )
    params, opt = run(opt, jax.tree.map(jnp.asarray, start), 25)
    bias, _ = run(eqxopt.Adam(0.01), jnp.asarray(start.pop("bias")), 25)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-12)
    for name, theta in start.items():
        rows = theta.shape[0]
        sides = [n <= limit for n in (rows, theta.size // rows)]
        reference = KLShampoo(*options, sides)
        for t in range(1, 26):
            g = gradient(np.zeros(theta.shape), t) + 0.2 * theta
            matrix = reference(theta.reshape(rows, -1), g.reshape(rows, -1), 0.05)
            theta = matrix.reshape(theta.shape)
        np.testing.assert_allclose(params[name], theta, rtol=1e-10, atol=1e-12)
        assert [x is not None for x in opt.state[name].values] == sides


def test_it_whitens(x64):
    """Of gradients of a known covariance, updates have nearly the identity."""
    rng = np.random.default_rng(0)
    left, right = np.diag([1.0, 2.0, 4.0]), np.diag([0.5, 1.0])
    grads = jnp.asarray(left @ rng.normal(size=(3000, 3, 2)) @ right)
    opt = eqxopt.KLShampoo(1.0, b1=0.0, b2=0.99, weight_decay=0.0)
    x = jnp.zeros((3, 2))

    def body(opt, grad):
        updates, opt = opt.update(grad, x)
        return opt, updates

    _, updates = jax.lax.scan(body, opt.init(x), grads)
    flat = np.asarray(updates[500:]).reshape(-1, 6)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(6), atol=0.15)


def test_no_gradient_and_narrow_matrices():
    for shape in ((3, 4), (1, 4), (4, 1), (0, 3), (3, 0)):
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        opt = eqxopt.KLShampoo(0.1, weight_decay=0.0, b2=0.1, matrices=True).init(x)
        for _ in range(50):
            new, opt = opt.apply(0 * x, x)
            np.testing.assert_array_equal(new, x)
        new, opt = opt.apply(x, x)
        assert np.all(np.isfinite(new)) and np.any(new != x) == (x.size > 0)


def test_float32_beside_float64(x64):
    """Also where no side is rotated."""
    x = jnp.ones((3, 4), jnp.float32)
    for limit in (1, 3, 4):
        updates, _ = eqxopt.KLShampoo(0.1, max_precond_dim=limit).init(x).update(x, x)
        assert updates.dtype == jnp.float32


def test_a_stack_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 3)))
    made = lambda **options: eqxopt.KLShampoo(0.1, precondition_frequency=2, **options)
    opt = made(matrices="stack").init(stack)
    alone = [made().init(x) for x in stack]
    expected = list(stack)
    for t in range(5):
        grads = jnp.asarray(gradient(np.zeros(stack.shape), t))
        stack, opt = opt.apply(grads, stack)
        for i, x in enumerate(expected):
            expected[i], alone[i] = alone[i].apply(grads[i], x)
    np.testing.assert_allclose(stack, jnp.stack(expected), rtol=1e-10, atol=1e-12)


def test_slopes_while_the_bases_stay(x64):
    """As those of finite differences; with one basis, which has no slope of its own."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    names = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.8, "eps": 0.1, "init_factor": 0.3}

    @jax.jit
    def loss(values):
        opt = eqxopt.KLShampoo(0.1, weight_decay=0.1).replace(**values)
        return jnp.sum(jnp.cos(run(opt, x, 5)[0]))

    slopes = jax.grad(loss)(names)
    for name, value in names.items():
        up, down = (loss(names | {name: value + h}) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slopes[name], (up - down) / 2e-6, rtol=1e-5)


def test_options():
    for field in ("precondition_frequency", "max_precond_dim"):
        with pytest.raises(ValueError, match=f"`KLShampoo.*`{field}` must be an int"):
            eqxopt.KLShampoo(0.1, **{field: 0})
