"""SOAP as in its authors' code, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    # Random, so that eigenvalues are apart and the bases well determined.
    return np.random.default_rng(step).normal(size=x.shape) + 0.2 * x


class Soap:
    """One matrix; a side that is None is not rotated."""

    def __init__(self, b1, b2, beta, eps, decay, frequency, sides):
        self.b1, self.b2, self.eps, self.decay = b1, b2, eps, decay
        self.beta = b2 if beta is None else beta
        self.frequency, self.sides, self.step = frequency, sides, 0
        self.q = None

    def rotate(self, x, back=False):
        left, right = self.q
        left, right = (left, right.T) if back else (left.T, right)
        return left @ x @ right

    def accumulate(self, g):
        for k, outer in enumerate((g @ g.T, g.T @ g)):
            self.factors[k] = self.beta * self.factors[k] + (1 - self.beta) * outer

    def __call__(self, theta, g, rate):
        if self.q is None:
            self.m, self.v = np.zeros_like(g), np.zeros_like(g)
            self.factors = [np.zeros((n, n)) for n in g.shape]
            self.accumulate(g)
            self.q = [np.linalg.eigh(f)[1][:, ::-1] for f in self.factors]
            for k in range(2):
                if not self.sides[k]:
                    self.q[k] = np.eye(g.shape[k])
            return theta
        self.step += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * self.rotate(g) ** 2
        scaled = self.rotate(self.m) / (np.sqrt(self.v) + self.eps)
        size = np.sqrt(1 - self.b2**self.step) / (1 - self.b1**self.step)
        new = theta - rate * (size * self.rotate(scaled, back=True))
        new = new - rate * self.decay * theta
        self.accumulate(g)
        if self.step % self.frequency == 0:
            for k in range(2):
                if self.sides[k]:
                    values = np.diag(self.q[k].T @ self.factors[k] @ self.q[k])
                    order = np.argsort(-values)
                    self.v = np.take(self.v, order, axis=k)
                    self.q[k] = np.linalg.qr(self.factors[k] @ self.q[k][:, order])[0]
        return new


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
        ((0.95, 0.95, None, 1e-8, 0.01, 10), 10000),
        ((0.8, 0.9, 0.7, 1e-2, 0.3, 1), 4),
        ((0.9, 0.99, 0.9, 1e-4, 0.0, 3), 1),
    ],
)
def test_paper(options, limit, x64):
    shapes = {"tall": (5, 4), "wide": (3, 4), "kernel": (3, 2, 2)}
    start = {k: np.random.default_rng(9).normal(size=s) for k, s in shapes.items()}
    opt = eqxopt.SOAP(0.05, *options[:5], None, *options[5:], limit)
    params, opt = run(opt, jax.tree.map(jnp.asarray, start), 25)
    for name, theta in start.items():
        rows = theta.shape[0]
        sides = [n <= limit for n in (rows, theta.size // rows)]
        reference = Soap(*options, sides)
        for t in range(1, 26):
            g = gradient(np.zeros(theta.shape), t) + 0.2 * theta
            matrix = reference(theta.reshape(rows, -1), g.reshape(rows, -1), 0.05)
            theta = matrix.reshape(theta.shape)
        np.testing.assert_allclose(params[name], theta, rtol=1e-10, atol=1e-12)
        kept = [x is not None for x in opt.state[name].factors]
        assert kept == sides


def test_the_first_step_only_gathers(x64):
    params = {"w": jnp.asarray(gradient(np.ones((3, 4)), 0)), "b": jnp.ones(3)}
    opt = eqxopt.SOAP(0.1, weight_decay=0.5).init(params)
    new, opt = opt.apply(params, params)
    np.testing.assert_array_equal(new["w"], params["w"])
    np.testing.assert_array_equal(opt.state["w"].nu, 0.0)
    assert np.any(np.asarray(opt.state["w"].factors.left))
    assert not np.array_equal(new["b"], params["b"])


def test_bases_are_only_made_when_they_are_due():
    """By a branch, which no step takes that need not."""
    params = jnp.ones((3, 4))
    opt = eqxopt.SOAP(0.1, precondition_frequency=5).init(params)
    text = str(jax.make_jaxpr(lambda o, p: o.apply(p, p))(opt, params))
    assert text.count("cond[") >= 1 and "qr" in text
    bases = []
    for t in range(12):
        grads = jnp.asarray(gradient(np.zeros((3, 4)), t), jnp.float32)
        params, opt = opt.apply(grads, params)
        bases.append(np.asarray(opt.state.bases.left))
    changed = [
        t + 1 for t in range(1, 12) if not np.array_equal(bases[t], bases[t - 1])
    ]
    assert changed == [6, 11]


def test_matrices_of_one_size_are_made_together():
    """Three sizes are decomposed three times, however many matrices there are."""
    params = {str(i): jnp.ones((3, 4)) for i in range(4)} | {"last": jnp.ones((4, 5))}
    opt = eqxopt.SOAP(0.1).init(params)
    text = jax.jit(lambda o, p: o.apply(p, p)).lower(opt, params).as_text()
    assert text.count("@lapack_ssyevd") == text.count("@lapack_sgeqrf") == 3


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 3), (3, 0)])
def test_narrow_matrices(shape, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    params, _ = run(eqxopt.SOAP(0.1, matrices=True, precondition_frequency=1), x, 4)
    assert params.shape == shape and np.all(np.isfinite(params))


def test_a_stack_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 3)))
    opt = eqxopt.SOAP(0.1, precondition_frequency=2, matrices="stack").init(stack)
    alone = [eqxopt.SOAP(0.1, precondition_frequency=2).init(x) for x in stack]
    expected = list(stack)
    for t in range(5):
        grads = jnp.asarray(gradient(np.zeros(stack.shape), t))
        stack, opt = opt.apply(grads, stack)
        for i, x in enumerate(expected):
            expected[i], alone[i] = alone[i].apply(grads[i], x)
    np.testing.assert_allclose(stack, jnp.stack(expected), rtol=1e-10, atol=1e-12)


def test_population(x64):
    """Over rates, with the count mapped too, so that every branch is taken and one is
    chosen."""
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))}

    def final(rate):
        return run(eqxopt.SOAP(rate, precondition_frequency=2), params, 5)

    rates = jnp.asarray([0.1, 0.2])
    models, opts = jax.vmap(final)(rates)
    models, _ = jax.vmap(lambda o, m: o.apply(m, m))(opts, models)
    for i, rate in enumerate(rates):
        model, opt = final(rate)
        model, _ = opt.apply(model, model)
        np.testing.assert_allclose(models["w"][i], model["w"], rtol=1e-10)


def test_slopes_while_the_bases_stay(x64):
    """As those of finite differences; with one basis, which has no slope of its own."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    names = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.8, "eps": 0.1}

    @jax.jit
    def loss(values):
        opt = eqxopt.SOAP(0.1, weight_decay=0.1).replace(**values)
        return jnp.sum(jnp.cos(run(opt, x, 5)[0]))

    slopes = jax.grad(loss)(names)
    for name, value in names.items():
        up, down = (loss(names | {name: value + h}) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slopes[name], (up - down) / 2e-6, rtol=1e-5)


def test_options():
    for field in ("precondition_frequency", "max_precond_dim"):
        with pytest.raises(ValueError, match=f"`SOAP.*`{field}` must be an integer"):
            eqxopt.SOAP(0.1, **{field: 0})


def test_matrices_of_one_size_do_not_mix(x64):
    """In one batch, with a stack among them, each has the numbers that it has alone."""
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 3), "b": (4, 3), "stack": (2, 4, 3), "c": (3, 4)}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    kinds = lambda path, x: "stack" if x.ndim == 3 else True
    made = lambda: eqxopt.SOAP(0.1, precondition_frequency=2, matrices=kinds)
    got, _ = run(made(), params, 5)
    for name, x in params.items():
        expected, _ = run(made(), x, 5)
        np.testing.assert_allclose(got[name], expected, rtol=1e-9, atol=1e-11)
