"""BFGS and its self-scaled relatives: their identities, iterates and ends."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize
from problems import flat, rosenbrock

import eqxopt


FAMILY = {
    "BFGS": eqxopt.BFGS,
    "SSBFGS": eqxopt.SSBFGS,
    "SSBroyden": eqxopt.SSBroyden,
}
every_member = pytest.mark.parametrize("name", FAMILY, scope="module")


def quartic(x):
    """Curvatures from 1 to 1e4, which grow away from the minimum."""
    scales = jnp.logspace(0, 4, x.size, dtype=x.dtype)
    return jnp.sum(scales * (x**2 + x**4)) / 2


def start():
    """A point from which all go to the same of the two minima."""
    return {"x": jnp.asarray([0.5, 0.3]), "w": jnp.asarray([[0.2, 0.1], [0.4, 0.6]])}


@eqx.filter_jit
def step(opt, params, loss):
    value, grads = opt.value_and_grad(loss, params)
    new, opt = opt.apply(grads, params, value=value, value_fn=loss)
    return new, opt, grads


def trained(opt, params, loss, steps):
    opt = opt.init(params)

    @jax.jit
    def run(params, opt):
        body = lambda carry, _: (step(carry[1], carry[0], loss)[:2], carry[1].value)
        return jax.lax.scan(body, (params, opt), length=steps)

    (params, opt), _ = run(params, opt)
    return params, opt


def weights_by_hand(name, h, b, first, size):
    """The weights of the family as in the papers, for the update by hand below."""
    a = max(b * h - 1, 0)
    if name == "BFGS":
        return 0.0, h if first else 1.0
    kappa = min(1, 1 / b)
    if name == "SSBFGS":
        return 0.0, h if first else kappa
    low = min(1, h * (1 - np.sqrt(a / (1 + a))))
    theta = max((low - 1) / a, min(1 / low, (1 - b) / b))
    sigma = 1 + theta * a
    if first:
        return theta, h / sigma
    root = abs(sigma) ** (1 / (1 - size))
    if theta <= 0:
        return theta, min(kappa * root, sigma)
    return theta, kappa * min(root, 1 / theta)


@every_member
def test_iterates_by_hand(name, x64):
    """The same points from the formulas in NumPy, with the step sizes of the search."""
    params, loss = start(), rosenbrock
    opt = FAMILY[name]().init(params)
    grad_at = jax.jit(jax.grad(loss))
    x, g = flat(params), flat(grad_at(params))
    n = x.size
    matrix = np.eye(n) * min(1, 1 / np.linalg.norm(g))
    for t in range(12):
        new, opt, _ = step(opt, params, loss)
        direction = -matrix @ g
        s = float(opt.step_size) * direction
        np.testing.assert_allclose(flat(new), x + s, rtol=1e-9, atol=1e-11)
        y = flat(grad_at(new)) - g
        rho, hy = 1 / (s @ y), matrix @ y
        h, b = rho * y @ hy, rho * s @ np.linalg.solve(matrix, s)
        theta, tau = weights_by_hand(name, h, b, t == 0, n)
        phi = (1 - theta) / (1 + (b * h - 1) * theta)
        v = rho * s - hy / (y @ hy)
        rest = matrix - np.outer(hy, hy) / (y @ hy) + phi * (y @ hy) * np.outer(v, v)
        matrix = rest / tau + rho * np.outer(s, s)
        np.testing.assert_allclose(opt.inverse_hessian, matrix, rtol=1e-6, atol=1e-9)
        params, x, g = new, flat(new), g + y
    if name == "BFGS":  # the product form gives the same
        assert opt.pairs == 12


@every_member
def test_secant_equation_and_definiteness(name, x64):
    params = start()
    opt = FAMILY[name]().init(params)
    for _ in range(15):
        new, opt, grads = step(opt, params, rosenbrock)
        s = flat(new) - flat(params)
        y = flat(jax.grad(rosenbrock)(new)) - flat(grads)
        np.testing.assert_allclose(opt.inverse_hessian @ y, s, rtol=1e-7, atol=1e-12)
        mirrored = opt.inverse_hessian.T
        np.testing.assert_allclose(opt.inverse_hessian, mirrored, rtol=1e-9)
        assert np.linalg.eigvalsh(opt.inverse_hessian)[0] > 0
        params = new


def test_product_form(x64):
    """BFGS is (I - rho s y') H (I - rho y s') + rho s s'."""
    params = start()
    opt = eqxopt.BFGS().init(params)
    for t in range(8):
        old = np.asarray(opt.inverse_hessian)
        new, opt, grads = step(opt, params, rosenbrock)
        s = flat(new) - flat(params)
        y = flat(jax.grad(rosenbrock)(new)) - flat(grads)
        if t == 0:
            old = s @ y / (y @ y) * np.eye(len(s))
        left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
        expected = left @ old @ left.T + np.outer(s, s) / (s @ y)
        np.testing.assert_allclose(opt.inverse_hessian, expected, rtol=1e-7, atol=1e-12)
        params = new


def test_quadratic_in_n_steps(x64):
    """With exact searches, and then the inverse Hessian is that of the quadratic."""
    a = np.random.default_rng(0).normal(size=(6, 6))
    hessian = a @ a.T + np.eye(6)
    loss = lambda x: x @ jnp.asarray(hessian) @ x / 2
    search = eqxopt.ZoomLineSearch(curv_rtol=1e-9, slope_rtol=1e-4)
    x, opt = trained(eqxopt.BFGS(linesearch=search), jnp.ones(6), loss, 7)
    np.testing.assert_allclose(x, 0, atol=1e-6)
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(opt.inverse_hessian, inverse, rtol=1e-4, atol=1e-5)


@every_member
@pytest.mark.parametrize("loss", [rosenbrock, quartic], ids=lambda f: f.__name__)
def test_ends_where_others_do(name, loss, x64):
    params = start() if loss is rosenbrock else jnp.linspace(1.0, 2.0, 20)
    after, opt = trained(FAMILY[name](), params, loss, 400)
    at = lambda x: float(loss(x)) if loss is quartic else float(loss(_unflat(x)))
    theirs = scipy.optimize.minimize(
        at,
        flat(params),
        jac=lambda x: flat(jax.grad(loss)(x if loss is quartic else _unflat(x))),
        method="BFGS",
        options={"gtol": 1e-10, "maxiter": 2000},
    )
    np.testing.assert_allclose(flat(after), theirs.x, atol=1e-6)
    solver = optx.BFGS(rtol=1e-10, atol=1e-12)
    found = optx.minimise(lambda p, _: loss(p), solver, params, max_steps=5000)
    np.testing.assert_allclose(flat(after), flat(found.value), atol=1e-6)
    assert opt.value < 1e-18


def _unflat(x):
    # Keys in order: "w" comes before "x".
    return {"w": jnp.asarray(x[:4]).reshape(2, 2), "x": jnp.asarray(x[4:])}


@every_member
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_the_minimum(name, dtype, x64):
    """When nothing lower is found, the point stays and nothing more is evaluated."""
    params = jax.tree.map(lambda x: x.astype(dtype), start())
    # A minimum that is not 0, so that its neighbourhood is lost in rounding.
    loss = lambda p: 1 + rosenbrock(p)
    opt = FAMILY[name]().init(params)
    for _ in range(120):
        params, opt, _ = step(opt, params, loss)
    assert opt.evaluations == 0 and opt.failures >= 2
    new, after, _ = step(opt, params, loss)
    assert eqx.tree_equal(new, params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((new, after)))
    np.testing.assert_allclose(
        flat(params), 1, atol=0.05 if dtype == "float32" else 1e-6
    )
    # Another loss is searched anew.
    other = lambda p: loss(p) + jnp.sum(p["x"] ** 2)
    value, grads = jax.value_and_grad(other)(params)
    moved, again = opt.apply(grads, params, value=value, value_fn=other)
    assert again.evaluations > 0 and other(moved) < value


@every_member
def test_zero_gradient(name):
    x = jnp.zeros(3)
    loss = lambda x: jnp.sum(x**2)
    new, opt = trained(FAMILY[name](), x, loss, 4)
    assert eqx.tree_equal(new, x) and opt.evaluations == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(opt))


@every_member
def test_begins_again_where_nothing_is_lower(name):
    """A wrong gradient leads nowhere. The next search is along the gradient itself."""
    params = start()
    _, opt = trained(FAMILY[name](), params, rosenbrock, 5)
    wrong = jax.tree.map(jnp.negative, jax.grad(rosenbrock)(params))
    value = rosenbrock(params)
    new, opt = opt.apply(wrong, params, value=value, value_fn=rosenbrock)
    assert eqx.tree_equal(new, params) and opt.failures == 1 and opt.pairs == 0
    np.testing.assert_array_equal(opt.inverse_hessian, np.eye(6))
    grads = jax.grad(rosenbrock)(params)
    new, opt = opt.apply(grads, params, value=value, value_fn=rosenbrock)
    assert opt.failures == 0 and opt.pairs == 1 and rosenbrock(new) < value


@every_member
@pytest.mark.parametrize("absent", [None, "float0"])
def test_absent_gradient(name, absent, x64):
    """A parameter without a gradient stays, the others train, and H stays definite."""
    params = start()
    opt = FAMILY[name]().init(params)
    for i in range(12):
        value, grads = jax.value_and_grad(rosenbrock)(params)
        if i % 2:
            none = np.zeros((2, 2), jax.dtypes.float0)
            grads["w"] = None if absent is None else none
        new, new_opt = opt.apply(grads, params, value=value, value_fn=rosenbrock)
        if i % 2:
            assert eqx.tree_equal(new["w"], params["w"])
            assert eqx.tree_equal(new_opt.state["w"], opt.state["w"])
        assert rosenbrock(new) < value
        assert np.linalg.eigvalsh(new_opt.inverse_hessian)[0] > 0
        params, opt = new, new_opt


@every_member
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "complex128"])
def test_dtypes(name, dtype, x64):
    z = {"z": jnp.asarray([1.5, -2.0], dtype)}
    target = jnp.asarray([0.5 + 1j, 1.0] if "complex" in dtype else [0.5, 1.0], dtype)

    def loss(p):
        rest = p["z"] - target
        return jnp.sum(
            (rest * rest.conj()).real * jnp.asarray([1.0, 10.0], rest.real.dtype)
        )

    _, opt = trained(FAMILY[name](), z, loss, 12)
    rows = 4 if "complex" in dtype else 2
    assert opt.inverse_hessian.shape == (rows, rows)
    assert opt.inverse_hessian.dtype == (
        jnp.float64 if dtype == "complex128" else jnp.float32
    )
    assert opt.value < 1e-3


@every_member
def test_population_of_starts(name, x64):
    starts = jax.vmap(lambda k: jax.random.normal(k, (6,)))(
        jax.random.split(jax.random.key(0), 3)
    )
    one = lambda x: trained(FAMILY[name](), x, quartic, 8)[0]
    each = jnp.stack([one(x) for x in starts])
    np.testing.assert_allclose(jax.vmap(one)(starts), each, rtol=1e-6, atol=1e-9)


def test_whole_model_by_fit_and_groups(x64):
    x = jnp.linspace(-1, 1, 32)[:, None]
    loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - jnp.sin(3 * x)) ** 2)
    make = lambda: eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(0), dtype=float)
    opt = eqxopt.SSBroyden().init(make())
    full = lambda model: loss(model, x)
    _, opt, history = eqxopt.fit(full, make(), opt, steps=80, progress=False)
    assert history.loss[-1] < 1e-4
    groups = eqxopt.Partition(
        {"second": eqxopt.BFGS(), "first": eqxopt.Adam(1e-2)},
        lambda path, array: "second" if "layers[1]" in path else "first",
    )
    step = eqxopt.make_step(loss)
    model, opt = make(), groups.init(make())
    value = jnp.inf
    for _ in range(40):
        model, opt, value = step(model, opt, x)
    assert value < 0.01


def test_without_a_search():
    """Steps at the learning rate, of which the changes are known one step later."""
    x = jnp.asarray([1.0, -2.0, 0.5])
    loss = lambda x: jnp.sum(jnp.asarray([1.0, 3.0, 10.0]) * x**2) / 2
    opt = eqxopt.BFGS(1.0, linesearch=None).init(x)
    for _ in range(14):
        x, opt = opt.apply(jax.grad(loss)(x), x)
    np.testing.assert_allclose(x, 0, atol=1e-4)
    assert opt.value is None and opt.pairs > 3


class TestErrors:
    def test_too_large(self):
        model = {"w": jnp.zeros((300, 400)), "f": jnp.tanh}
        with pytest.raises(ValueError, match=r"`BFGS` .*57,600,000,000 bytes.*`LBFGS`"):
            eqxopt.BFGS().init(model)
        small = eqxopt.SSBroyden(max_bytes=100)
        with pytest.raises(ValueError, match=r"6 × 6 entries.*`max_bytes=100`"):
            small.init(start())

    def test_missing_loss(self):
        params = start()
        opt = eqxopt.SSBFGS().init(params)
        with pytest.raises(ValueError, match="`SSBFGS` needs the loss.*value_fn="):
            opt.apply(params, params)
        with pytest.raises(ValueError, match="no state: call `opt = opt.init"):
            eqxopt.BFGS().value_and_grad(rosenbrock, params)

    def test_options(self):
        with pytest.raises(TypeError, match=r"`BFGS\(linesearch='zoom'\)`.*ZoomLine"):
            eqxopt.BFGS(linesearch="zoom")
        with pytest.raises(ValueError, match=r"\[0, inf\)"):
            eqxopt.BFGS(-1.0)
        rates = {"x": 0.1, "w": 0.2}
        opt = eqxopt.BFGS(rates).init(start())
        with pytest.raises(TypeError, match="`BFGS.learning_rate` is one number"):
            opt.apply(start(), start(), value=1.0, value_fn=rosenbrock)

    def test_another_model(self):
        opt = eqxopt.BFGS().init(start())
        more = start() | {"w": jnp.zeros((3, 2))}
        grads = more | {"w": None}
        with pytest.raises(ValueError, match="6 rows, but the model has 8 parameters"):
            opt.apply(grads, more, value=1.0, value_fn=rosenbrock)


def test_what_it_keeps_is_shown():
    """Each parameter has its last gradient, and all together the inverse Hessian."""
    params = start()
    lines = eqxopt.describe(eqxopt.BFGS().init(params), params).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [
        ["16", "B"],
        ["8", "B"],
        ["144", "B"],
        ["168", "B"],
    ]
