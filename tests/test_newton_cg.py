"""Newton's method by conjugate gradients: its solver, its preconditioner, its ends."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from problems import flat, Model, rosenbrock

import eqxopt
from eqxopt._curvature._nystrom import nystrom, preconditioner, Sketch, truncated_cg


def start():
    return {"x": jnp.asarray([0.5, 0.3]), "w": jnp.asarray([[1.2, 0.1], [-1.0, 0.6]])}


@eqx.filter_jit
def step(opt, params, loss):
    value, grads = opt.value_and_grad(loss, params)
    new, opt = opt.apply(grads, params, value=value, value_fn=loss)
    return new, opt


def trained(opt, params, loss, steps):
    """The parameters and the optimizer after some steps, and the losses after each."""
    body = lambda carry, _: (step(carry[1], carry[0], loss), carry[1].value)
    run = lambda carry: jax.lax.scan(body, carry, length=steps)
    (params, opt), losses = jax.jit(run)((params, opt.init(params)))
    return params, opt, jnp.append(losses[1:], opt.value)


def is_finite(tree):
    return all(np.all(np.isfinite(np.asarray(x))) for x in jax.tree.leaves(tree))


def symmetric(values, seed=0):
    """A matrix with these eigenvalues."""
    normal = np.random.default_rng(seed).normal(size=(len(values), len(values)))
    q, _ = np.linalg.qr(normal)
    return (q * values) @ q.T


def quadratic(hessian):
    target = jnp.ones(len(hessian))

    def loss(x):
        rest = x - target
        return rest @ jnp.asarray(hessian) @ rest / 2

    return loss


class TestPreconditioner:
    """On its own, on matrices with known eigenvalues."""

    def dense(self, precondition, size):
        return np.stack([precondition(x) for x in jnp.eye(size)], axis=1)

    def orthonormal(self, size, rank):
        normal = np.random.default_rng(1).normal(size=(size, rank))
        return jnp.asarray(np.linalg.qr(normal)[0])

    def test_it_finds_a_matrix_of_low_rank(self, x64):
        values = np.array([5.0, 3.0, 1.0, 0, 0, 0, 0, 0])
        matrix = jnp.asarray(symmetric(values))
        vectors, found = nystrom(lambda x: matrix @ x, self.orthonormal(8, 4))
        np.testing.assert_allclose(found, [5, 3, 1, 0], atol=1e-10)
        rebuilt = (vectors * found[None]) @ vectors.T
        np.testing.assert_allclose(rebuilt, matrix, atol=1e-10)

    def test_it_is_the_inverse_of_the_paper(self, x64):
        matrix = jnp.asarray(symmetric(2.0 ** -np.arange(8)))
        sketch = nystrom(lambda x: matrix @ x, self.orthonormal(8, 3))
        vectors, values = map(np.asarray, sketch)
        mu = 1e-3
        scaled = (vectors * (values + mu)) @ vectors.T / (values[-1] + mu)
        expected = np.linalg.inv(scaled + np.eye(8) - vectors @ vectors.T)
        got = self.dense(preconditioner(sketch, jnp.asarray(mu)), 8)
        np.testing.assert_allclose(got, expected, atol=1e-12)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("damping", [0.0, 1e-3])
    @pytest.mark.parametrize(
        "values",
        [
            np.linspace(-1, 1, 12),
            np.linspace(-1, -0.1, 12),
            np.array([1e6] * 3 + [-1.0] * 9),
            np.geomspace(1e8, 1e-8, 12),
            np.zeros(12),
            np.full(12, np.nan),
        ],
        ids=["mixed", "negative", "large", "decaying", "zero", "nan"],
    )
    def test_it_is_positive_definite(self, values, damping, dtype, x64):
        for seed in range(5):
            matrix = jnp.asarray(symmetric(values, seed), dtype)
            test = self.orthonormal(12, 6).astype(dtype)
            sketch = nystrom(lambda x: matrix @ x, test)
            assert is_finite(sketch) and np.all(sketch.values >= 0)
            precondition = preconditioner(sketch, jnp.asarray(damping, dtype))
            eigenvalues = np.linalg.eigvalsh(
                [precondition(x) for x in jnp.eye(12, dtype=dtype)]
            )
            assert 0 < eigenvalues[0] and eigenvalues[-1] < 1 + 1e-5

    def test_without_any_rank(self):
        sketch = Sketch(jnp.zeros((3, 0)), jnp.zeros(0))
        x = jnp.arange(3.0)
        np.testing.assert_array_equal(preconditioner(sketch, jnp.asarray(0.1))(x), x)

    def test_it_saves_products(self, x64):
        """On a spectrum that decays to the damping."""
        loss = quadratic(symmetric(np.geomspace(1e3, 1e-6, 150)))
        make = lambda rank: eqxopt.NewtonCG(damping=1e-3, rank=rank, cg_rtol=1e-8)
        steps = {}
        for rank in (0, 60):
            x, opt, _ = trained(make(rank), jnp.zeros(150), loss, 1)
            steps[rank] = int(opt.products) - rank
        assert steps[60] < steps[0] / 10


class TestConjugateGradients:
    def test_it_stops_before_negative_curvature(self, x64):
        """What it has found is better than nothing, and goes along `b`."""
        for seed in range(20):
            matrix = symmetric(np.linspace(-1, 4, 8), seed)
            b = np.random.default_rng(seed).normal(size=8)
            x, steps = truncated_cg(
                lambda x: jnp.asarray(matrix) @ x,
                jnp.asarray(b),
                lambda x: x,
                jnp.zeros(()),
                50,
            )
            assert 1 <= steps <= 9 and x @ b > 0

    @pytest.mark.parametrize("curvature", [-4.0, 0.0, 4.0])
    def test_the_first_direction(self, curvature, x64):
        b = jnp.asarray([3.0, -1.0])
        x, steps = truncated_cg(
            lambda x: curvature * x, b, lambda x: x, jnp.zeros(()), 50
        )
        np.testing.assert_allclose(x, b / (abs(curvature) or 1))
        assert steps == 1

    def test_limits(self, x64):
        matrix = jnp.asarray(symmetric(np.geomspace(1, 1e4, 30)))
        b = jnp.ones(30)
        solve = lambda rtol, steps: truncated_cg(
            lambda x: matrix @ x, b, lambda x: x, jnp.asarray(rtol), steps
        )
        assert solve(0.0, 7)[1] == 7
        x, steps = solve(1e-3, 1000)
        assert np.linalg.norm(matrix @ x - b) <= 1e-3 * np.linalg.norm(b)
        assert steps < solve(1e-6, 1000)[1] < 1000
        x, steps = truncated_cg(
            lambda x: matrix @ x, 0 * b, lambda x: x, jnp.zeros(()), 9
        )
        assert steps == 0 and not np.any(x)


@pytest.mark.parametrize("rank", [0, 10, 60])
def test_a_quadratic_in_one_step(rank, x64):
    loss = quadratic(symmetric(np.geomspace(1e-3, 1e3, 30)))
    opt = eqxopt.NewtonCG(damping=0.0, rank=rank, cg_rtol=0.0)
    x, opt, losses = trained(opt, jnp.zeros(30), loss, 1)
    np.testing.assert_allclose(x, 1, atol=1e-6)
    assert losses[0] < 1e-14 and opt.evaluations == 1 and opt.step_size == 1


A = np.random.default_rng(0).normal(size=(40, 9)) * np.geomspace(1, 0.03, 9)
SIGNS = np.sign(np.random.default_rng(1).normal(size=40))


def logistic(x):
    margins = jnp.asarray(SIGNS) * (jnp.asarray(A) @ x)
    return jnp.mean(jax.nn.softplus(-margins)) + 1e-4 * jnp.sum(x**2)


def logistic_by_hand(x):
    """The loss, its gradient and its Hessian."""
    rows = SIGNS[:, None] * A
    p = 1 / (1 + np.exp(rows @ x))
    loss = np.mean(np.log1p(np.exp(-rows @ x))) + 1e-4 * x @ x
    hessian = (rows.T * p * (1 - p)) @ rows / 40 + 2e-4 * np.eye(9)
    return loss, -rows.T @ p / 40 + 2e-4 * x, hessian


def nystrom_by_hand(hessian, omega, shift):
    y = hessian @ omega + shift * omega
    root = np.linalg.cholesky(omega.T @ y)
    u, sigma, _ = np.linalg.svd(np.linalg.solve(root, y.T).T, full_matrices=False)
    return u, np.maximum(sigma**2 - shift, 0)


def pcg_by_hand(hessian, g, u, values, mu, steps):
    def inverse(x):
        z = u.T @ x
        return (values[-1] + mu) * u @ (z / (values + mu)) + x - u @ z

    d, r = np.zeros_like(g), g.copy()
    z = inverse(r)
    p = z.copy()
    for _ in range(steps):
        v = hessian @ p + mu * p
        alpha = r @ z / (p @ v)
        d += alpha * p
        old = r @ z
        r = r - alpha * v
        z = inverse(r)
        p = z + r @ z / old * p
    return d


def test_iterates_by_hand(x64):
    """NNCG of the paper in NumPy, from 0, with the same random matrix: the loss, the
    points and the step sizes. So few steps that it matters how they are
    preconditioned."""
    mu, rank, interval, cg_steps, seed = 1e-3, 4, 3, 3, 5
    opt = eqxopt.NewtonCG(
        1.5, mu, rank, interval, cg_steps=cg_steps, cg_rtol=0.0, seed=seed
    )
    params = jnp.full(9, 2.0)
    opt = opt.init(params)
    x = np.asarray(params)
    for t in range(8):
        loss, g, hessian = logistic_by_hand(x)
        if t % interval == 0:
            key = jax.random.fold_in(jax.random.key(seed), t)
            omega = np.linalg.qr(jax.random.normal(key, (9, rank), float))[0]
            u, values = nystrom_by_hand(hessian, omega, np.finfo(float).eps)
        d = 1.5 * pcg_by_hand(hessian, g, u, values, mu, cg_steps)
        eta, tried = 1.0, 1
        while logistic_by_hand(x - eta * d)[0] > loss - 0.1 * eta * g @ d:
            eta, tried = eta / 2, tried + 1
        x = x - eta * d
        params, opt = step(opt, params, logistic)
        np.testing.assert_allclose(params, x, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(opt.eigenvalues, values, rtol=1e-7)
        assert opt.step_size == eta and opt.evaluations == tried
        assert opt.products == cg_steps + (rank if t % interval == 0 else 0)


def saddles(x):
    return jnp.sum(jnp.cos(3 * x)) + 0.5 * jnp.sum(x[1:] * x[:-1]) + 0.1 * jnp.sum(x**4)


@pytest.mark.parametrize("damping", [0.0, 1e-2])
@pytest.mark.parametrize("rank", [0, 5, 60])
def test_indefinite_hessians(rank, damping, x64):
    """Every step goes down, from wherever it starts."""
    starts = jax.random.normal(jax.random.key(0), (10, 20))
    opt = eqxopt.NewtonCG(damping=damping, rank=rank, update_interval=3)
    assert min(np.linalg.eigvalsh(jax.hessian(saddles)(x))[0] for x in starts) < -5

    def run(x):
        x, opt_, losses = trained(opt, x, saddles, 25)
        return x, losses, jax.grad(saddles)(x)

    ends, losses, slopes = jax.vmap(run)(starts)
    first = jax.vmap(saddles)(starts)
    losses = jnp.concatenate([first[None], jnp.moveaxis(losses, -1, 0)])
    assert np.all(np.isfinite(losses)) and is_finite(ends)
    assert np.all(np.diff(losses, axis=0) <= 1e-12)
    assert np.all(losses[1] < losses[0])
    np.testing.assert_allclose(slopes, 0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rosenbrock(dtype, x64):
    params = jax.tree.map(lambda x: x.astype(dtype), start())
    params, opt, losses = trained(eqxopt.NewtonCG(damping=0.0), params, rosenbrock, 60)
    double = dtype == "float64"
    np.testing.assert_allclose(flat(params), 1, atol=1e-8 if double else 1e-3)
    assert np.all(np.diff(losses) <= 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_the_minimum(dtype, x64):
    """When nothing lower is found, the point stays and nothing more is evaluated."""
    params = jax.tree.map(lambda x: x.astype(dtype), start())
    evaluations = 0

    def loss(p):
        def count():
            nonlocal evaluations
            evaluations += 1

        jax.debug.callback(count)
        # A minimum that is not 0, so that its neighbourhood is lost in rounding.
        return 1 + rosenbrock(p)

    params, opt, _ = trained(eqxopt.NewtonCG(), params, loss, 80)
    assert opt.failures >= 2
    jax.effects_barrier()
    before = evaluations
    new, after = step(opt, params, loss)
    jax.effects_barrier()
    assert evaluations == before
    assert after.evaluations == 0 and after.products == 0
    assert eqx.tree_equal(new, params) and is_finite(after)
    np.testing.assert_array_equal(after.eigenvectors, opt.eigenvectors)
    atol = 0.05 if dtype == "float32" else 1e-6
    np.testing.assert_allclose(flat(params), 1, atol=atol)
    # Another loss is searched anew.
    other = lambda p: 1 + rosenbrock(p) + jnp.sum(p["x"] ** 2)
    value, grads = jax.value_and_grad(other)(params)
    moved, again = opt.apply(grads, params, value=value, value_fn=other)
    assert again.evaluations > 0 and again.products > 0 and other(moved) < value


def test_along_the_gradient_after_a_failure():
    """A wrong gradient leads nowhere. The next search from there takes no products."""
    params = start()
    _, opt, _ = trained(eqxopt.NewtonCG(), params, rosenbrock, 2)
    wrong = jax.tree.map(jnp.negative, jax.grad(rosenbrock)(params))
    value = rosenbrock(params)
    for products in (False, True):
        new, opt = opt.apply(wrong, params, value=value, value_fn=rosenbrock)
        assert eqx.tree_equal(new, params) and opt.evaluations == 21
        assert (opt.products == 0) == products
    assert opt.failures == 2
    right = jax.grad(rosenbrock)(params)
    params, opt = opt.apply(right, params, value=value, value_fn=rosenbrock)
    assert opt.failures == 0 and rosenbrock(params) < value


def test_zero_and_nan_gradients():
    loss = lambda x: jnp.sum(x**2)
    x, opt, _ = trained(eqxopt.NewtonCG(), jnp.zeros(3), loss, 4)
    assert not np.any(x) and opt.evaluations == 0 and is_finite(opt)
    nans = jnp.full(3, jnp.nan)
    new, opt = opt.apply(nans, x, value=jnp.nan, value_fn=lambda x: nans[0] * loss(x))
    assert eqx.tree_equal(new, x) and is_finite((opt.eigenvectors, opt.eigenvalues))
    opt = eqxopt.NewtonCG().init(x)
    new, opt = opt.apply(nans, x, value=jnp.nan, value_fn=lambda x: nans[0] * loss(x))
    assert eqx.tree_equal(new, x) and is_finite((opt.eigenvectors, opt.eigenvalues))
    new, opt = step(opt, x + 1, loss)
    assert loss(new) < 1e-3


@pytest.mark.parametrize("absent", [None, "float0"])
@pytest.mark.parametrize("rank", [0, 3, 60])
def test_absent_gradient(absent, rank, x64):
    """A parameter without a gradient is a constant, whether or not the preconditioner
    knows it, and no number of steps without one keeps the preconditioner old."""
    params = start()
    opt = eqxopt.NewtonCG(damping=0.5, rank=rank, update_interval=2, cg_rtol=0.0)
    opt = opt.init(params)
    params, opt = step(opt, params, rosenbrock)
    for i in range(8):
        value, grads = jax.value_and_grad(rosenbrock)(params)
        if i in (0, 1, 3, 4):
            none = np.zeros((2, 2), jax.dtypes.float0)
            grads["w"] = None if absent is None else none
        new, new_opt = opt.apply(grads, params, value=value, value_fn=rosenbrock)
        assert rosenbrock(new) < value and is_finite(new_opt)
        if i in (0, 1, 3, 4):
            assert eqx.tree_equal(new["w"], params["w"])
            assert eqx.tree_equal(new_opt.state["w"], opt.state["w"])
            if new_opt.age == 1:
                known = new_opt.eigenvalues > 1e-10
                absent_rows = new_opt.eigenvectors[:4, known]
                np.testing.assert_allclose(absent_rows, 0, atol=1e-12)
            own = lambda x: rosenbrock(params | {"x": x})
            hessian = jax.hessian(own)(params["x"]) + 0.5 * np.eye(2)
            if np.linalg.eigvalsh(hessian)[0] > 0:
                newton = -new_opt.step_size * np.linalg.solve(hessian, grads["x"])
                np.testing.assert_allclose(new["x"] - params["x"], newton, rtol=1e-6)
        params, opt = new, new_opt
    _, after = opt.apply({"x": None, "w": None}, params, value=1.0, value_fn=rosenbrock)
    assert after.age == opt.age and after.count == opt.count + 1


def test_complex_parameters(x64):
    """As their real and imaginary parts."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.normal(size=(6, 3)) + 1j * rng.normal(size=(6, 3)))
    b = jnp.asarray(rng.normal(size=6) + 0j)

    def loss(p):
        # Not the same curvature in both parts.
        return jnp.sum(jnp.abs(a @ p["z"] - b) ** 2) + jnp.sum(p["z"].imag ** 4)

    real = lambda p: loss({"z": jax.lax.complex(p["a"], p["b"])})
    z = {"z": jnp.asarray(rng.normal(size=3) + 1j * rng.normal(size=3))}
    parts = {"a": z["z"].real, "b": z["z"].imag}
    make = lambda: eqxopt.NewtonCG(damping=0.1, rank=2, update_interval=2, cg_steps=3)
    z, opt, losses = trained(make(), z, loss, 5)
    parts, _, expected = trained(make(), parts, real, 5)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    np.testing.assert_allclose(z["z"].real, parts["a"], rtol=1e-7)
    np.testing.assert_allclose(z["z"].imag, parts["b"], rtol=1e-7)
    assert opt.eigenvectors.shape == (6, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_dtypes(dtype, x64):
    z = {"z": jnp.asarray([1.5, -2.0], dtype)}
    target = jnp.asarray([0.5 + 1j, 1.0] if "complex" in dtype else [0.5, 1.0], dtype)

    def loss(p):
        rest = p["z"] - target
        scales = jnp.asarray([1.0, 10.0], rest.real.dtype)
        return jnp.sum((rest * rest.conj()).real * scales)

    z, opt, losses = trained(eqxopt.NewtonCG(), z, loss, 6)
    assert z["z"].dtype == dtype and opt.eigenvectors.dtype == jnp.float32
    assert losses[-1] < 1e-3


def test_population_of_starts(x64):
    starts = jax.random.normal(jax.random.key(0), (3, 6))
    one = lambda x: trained(eqxopt.NewtonCG(rank=3), x, saddles, 6)[0]
    each = jnp.stack([one(x) for x in starts])
    np.testing.assert_allclose(jax.vmap(one)(starts), each, rtol=1e-6, atol=1e-9)


def test_rates_of_their_own(x64):
    """A part of the direction may go up. Then the step is along the gradient."""
    hessian = np.array([[1.0, 0.99], [0.99, 1.0]])
    loss = lambda p: (
        jnp.stack([p["a"], p["b"]]) @ jnp.asarray(hessian) @ jnp.stack([p["a"], p["b"]])
    )
    params = {"a": jnp.asarray(1.0), "b": jnp.asarray(0.5)}
    rates = {"a": 0.01, "b": 1.0}
    opt = eqxopt.NewtonCG(rates, damping=0.0, rank=0, linesearch=None).init(params)
    grads = jax.grad(loss)(params)
    newton = np.linalg.solve(2 * hessian, [grads["a"], grads["b"]])
    assert 0.01 * newton[0] * grads["a"] + newton[1] * grads["b"] > 0
    new, _ = opt.apply(grads, params, value_fn=loss)
    got = [params["a"] - new["a"], params["b"] - new["b"]]
    np.testing.assert_allclose(got, np.array([0.01, 1]) * newton, rtol=1e-6)
    params = {"a": jnp.asarray(1.0), "b": jnp.asarray(-0.9)}
    grads = jax.grad(loss)(params)
    new, _ = opt.apply(grads, params, value_fn=loss)
    np.testing.assert_allclose(params["a"] - new["a"], 0.01 * grads["a"])
    np.testing.assert_allclose(params["b"] - new["b"], grads["b"])


def test_derivatives_without_a_search(x64):
    """In both modes, and as differences have them."""

    def final(damping):
        opt = eqxopt.NewtonCG(
            0.5, damping, rank=3, update_interval=2, linesearch=None, cg_rtol=1e-13
        )
        x = jnp.linspace(0.1, 0.6, 6)
        opt = opt.init(x)
        for _ in range(3):
            x, opt = opt.apply(jax.grad(saddles)(x), x, value_fn=saddles)
        return saddles(x)

    at = jnp.asarray(20.0)
    slope = jax.jit(jax.grad(final))(at)
    np.testing.assert_allclose(slope, jax.jit(jax.jacfwd(final))(at), rtol=1e-8)
    run = jax.jit(final)
    numeric = (run(at + 1e-4) - run(at - 1e-4)) / 2e-4
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_seeds():
    params = start()
    steps = {}
    for seed in (0, 0, 1):
        opt = eqxopt.NewtonCG(rank=2, seed=seed).init(params)
        steps[seed] = step(opt, params, rosenbrock)
    assert not np.array_equal(steps[0][1].eigenvectors, steps[1][1].eigenvectors)
    typed = eqxopt.NewtonCG(rank=2, seed=jax.random.key(1)).init(params)
    assert eqx.tree_equal(step(typed, params, rosenbrock), steps[1])


def test_whole_model_by_fit_and_groups(x64):
    x = jnp.linspace(-1, 1, 32)[:, None]
    loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - jnp.sin(3 * x)) ** 2)
    make = lambda: eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(0), dtype=float)
    opt = eqxopt.NewtonCG(rank=10).init(make())
    _, opt, history = eqxopt.fit(loss, make(), opt, [x] * 40, progress=False)
    assert history.loss[-1] < 1e-4
    groups = eqxopt.Partition(
        {"second": eqxopt.NewtonCG(rank=5), "first": eqxopt.Adam(1e-2)},
        lambda path, array: "second" if "layers[1]" in path else "first",
    )
    train = eqxopt.make_step(loss)
    model, opt = make(), groups.init(make())
    for _ in range(40):
        model, opt, value = train(model, opt, x)
    assert value < 0.01


def test_model_with_functions_in_it_and_residuals():
    """The residuals give the loss, and its Hessian. An eager loop compiles once."""
    model = Model()
    x = jax.random.normal(jax.random.key(0), (8, 3))
    traces = 0

    def residuals(model):
        nonlocal traces
        traces += 1
        return jax.vmap(model)(x)

    opt = eqxopt.NewtonCG(1.0, linesearch=None).init(model)
    before = jax.tree.structure(opt)
    counts = []
    for _ in range(4):
        grads = eqx.filter_grad(lambda m: jnp.sum(jax.vmap(m)(x) ** 2) / 2)(model)
        model, opt = opt.apply(grads, model, residual_fn=residuals)
        counts.append(traces)
    assert counts[0] == counts[-1]
    assert jax.tree.structure(opt) == before
    assert jnp.sum(residuals(model) ** 2) < 0.1 * jnp.sum(residuals(Model()) ** 2)


@pytest.mark.parametrize("explicit", [True, False])
def test_on_a_mesh(explicit):
    """With its search as a carry of `scan`, and the numbers stay."""
    kind = AxisType.Explicit if explicit else AxisType.Auto
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,), devices=jax.devices()[:2])
    params = {"x": jnp.linspace(0.1, 0.8, 4), "w": jnp.ones((4, 2))}
    loss = lambda p: jnp.sum(jnp.cosh(p["x"])) + jnp.sum(jnp.cosh(p["w"] - 1))

    def run(params):
        body = lambda carry, _: (step(carry[1], carry[0], loss), None)
        opt = eqxopt.NewtonCG(rank=2, update_interval=2).init(params)
        return jax.lax.scan(body, (params, opt), length=3)[0][0]

    rows = PartitionSpec("x")
    if explicit:
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, NamedSharding(mesh, rows))
            got = jax.jit(run)(placed)
    else:
        spread = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows)
        got = jax.jit(spread)(params)
    for k in params:
        np.testing.assert_allclose(got[k], k == "w", atol=1e-3)


@pytest.mark.parametrize("loss", [rosenbrock, lambda p: -jnp.sum(p["x"])])
def test_no_infinity_and_no_nan_on_the_way(loss):
    params = start()
    with jax.debug_infs(True), jax.debug_nans(True):
        opt = eqxopt.NewtonCG(damping=0.0, rank=2).init(params)
        for _ in range(3):
            params, opt = step(opt, params, loss)
        assert opt.value < loss(start())


class TestErrors:
    def test_missing_loss(self):
        params = start()
        opt = eqxopt.NewtonCG().init(params)
        with pytest.raises(ValueError, match="`NewtonCG` needs the loss.*value_fn="):
            opt.apply(params, params)
        for made in (opt, eqxopt.NewtonCG(linesearch=None).init(params)):
            with pytest.raises(ValueError, match="needs the loss as a function of the"):
                made.apply(params, params, value=1.0)
        with pytest.raises(ValueError, match="no state: call `opt = opt.init"):
            eqxopt.NewtonCG().value_and_grad(rosenbrock, params)

    def test_options(self):
        with pytest.raises(TypeError, match=r"`NewtonCG\(linesearch='armijo'\)`"):
            eqxopt.NewtonCG(linesearch="armijo")
        with pytest.raises(ValueError, match=r"`damping` must lie in \[0, inf\)"):
            eqxopt.NewtonCG(damping=-1.0)
        for name in ("rank", "update_interval", "cg_steps"):
            with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
                eqxopt.NewtonCG(**{name: -1})
        params = start()
        opt = eqxopt.NewtonCG(damping={"x": 0.1, "w": 0.2}).init(params)
        with pytest.raises(TypeError, match="`NewtonCG.damping` is one number"):
            opt.apply(params, params, value=1.0, value_fn=rosenbrock)

    def test_another_model(self):
        opt = eqxopt.NewtonCG().init(start())
        more = start() | {"w": jnp.zeros((3, 2))}
        grads = more | {"w": None}
        with pytest.raises(ValueError, match="of 6 entries, but the model has 8"):
            opt.apply(grads, more, value=1.0, value_fn=rosenbrock)
