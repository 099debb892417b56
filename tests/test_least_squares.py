"""Gauss-Newton and Levenberg-Marquardt: the papers' steps, certified curve fits, and
training with residuals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
import scipy.optimize
from curve_fits import FITS

import eqxopt


RNG = np.random.default_rng(0)
SHAPES = {"wide": (5, 9), "tall": (20, 6)}


def problem(shape, seed=0):
    """Residuals of a vector, and the same with their Jacobian in NumPy."""
    n, p = SHAPES[shape]
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, p)) / p**0.5, rng.normal(size=n)
    residuals = lambda x: {"r": jnp.tanh(jnp.asarray(a) @ x) - jnp.asarray(b)}

    def in_numpy(x):
        t = np.tanh(a @ x)
        return t - b, (1 - t**2)[:, None] * a

    return residuals, in_numpy, rng.normal(size=p)


def iterates(opt, residual_fn, x, steps):
    """The parameters after each step, and the last optimizer."""

    @jax.jit
    def run(x, opt):
        def body(carry, _):
            x, opt = carry
            x, opt = opt.apply(x, x, residual_fn=residual_fn)
            return (x, opt), x

        return jax.lax.scan(body, (x, opt), length=steps)

    (_, opt), path = run(jnp.asarray(x), opt.init(jnp.asarray(x)))
    return path, opt


class TestSystems:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_one_step_solves_linear_least_squares(self, shape, x64):
        n, p = SHAPES[shape]
        a, b = RNG.normal(size=(n, p)), RNG.normal(size=n)
        start = RNG.normal(size=p)
        for matrix in (a, np.concatenate([a[:, :3], a[:, :3]], axis=1)):
            at = np.zeros(matrix.shape[1]) if matrix is not a else start
            residuals = lambda x, matrix=matrix: jnp.asarray(matrix) @ x - b
            path, _ = iterates(eqxopt.GaussNewton(damping=0), residuals, at, 1)
            # The shortest step, also where columns are equal.
            step = np.linalg.lstsq(matrix, b - matrix @ at)[0]
            np.testing.assert_allclose(path[0], at + step, atol=1e-12)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_both_systems_have_one_solution(self, shape, x64):
        """The smaller system gives what the other one does, with momentum."""
        residuals, in_numpy, x = problem(shape)
        opt = eqxopt.GaussNewton(0.5, 0.01, momentum=0.8)
        path, _ = iterates(opt, residuals, x, 6)
        last = np.zeros_like(x)
        for got in path:
            r, j = in_numpy(x)
            if shape == "wide":
                system = j.T @ j + 0.01 * np.eye(len(x))
                last = np.linalg.solve(system, j.T @ r + 0.01 * 0.8 * last)
            else:
                system = j @ j.T + 0.01 * np.eye(len(r))
                inner = np.linalg.solve(system, r - 0.8 * j @ last)
                last = 0.8 * last + j.T @ inner
            x = x - 0.5 * last
            np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
    def test_matrix_free(self, shape, mode, x64):
        residuals, _, x = problem(shape)
        options = {"damping": 0.01, "momentum": 0.5, "jacobian": mode}
        dense, _ = iterates(eqxopt.GaussNewton(**options), residuals, x, 4)
        free = eqxopt.GaussNewton(**options, dense_up_to=0, cg_rtol=1e-12)
        got, _ = iterates(free, residuals, x, 4)
        np.testing.assert_allclose(got, dense, rtol=1e-8)
        made = [
            eqxopt.LevenbergMarquardt(0.1, jacobian=mode, dense_up_to=k, cg_rtol=1e-12)
            for k in (0, 1000)
        ]
        one, other = (iterates(opt, residuals, x, 4)[0] for opt in made)
        np.testing.assert_allclose(one, other, rtol=1e-8)

    def test_one_kind_of_derivative(self):
        """Functions that can only be differentiated in one mode."""

        @jax.custom_vjp
        def cube(x):
            return x**3

        cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))
        loop = lambda x: jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, jnp.ones(2))
        )[1]
        x = jnp.asarray([1.0, 2.0])
        expected = x - x / 3
        for function, mode in ((cube, "reverse"), (loop, "forward")):
            opt = eqxopt.GaussNewton(damping=0, jacobian=mode).init(x)
            new, _ = opt.apply(x, x, residual_fn=function)
            np.testing.assert_allclose(new, expected, rtol=1e-6)

    def test_more_rows_than_are_computed_together(self, x64):
        a, b = RNG.normal(size=(300, 150)), RNG.normal(size=300)
        for matrix in (a, a.T):
            n, p = matrix.shape
            path, _ = iterates(
                eqxopt.GaussNewton(damping=0),
                lambda x: jnp.asarray(matrix) @ x - b[:n],
                np.zeros(p),
                1,
            )
            expected = np.linalg.lstsq(matrix, b[:n])[0]
            np.testing.assert_allclose(path[0], expected, rtol=1e-8)


class TestPapers:
    def test_spring(self, x64):
        """A new batch in every step, and no step longer than `max_norm`."""
        opt = eqxopt.GaussNewton(0.3, 0.02, momentum=0.9, max_norm=2.4)
        _, _, x = problem("wide")
        got = jnp.asarray(x)
        opt, last, lengths = opt.init(got), np.zeros_like(x), set()
        for i in range(12):
            residuals, in_numpy, _ = problem("wide", i)
            got, opt = opt.apply(got, got, residual_fn=residuals)
            r, o = in_numpy(x)
            kernel = o @ o.T
            values, vectors = np.linalg.eigh(kernel)
            inverse = vectors @ np.diag(1 / (values + 0.02)) @ vectors.T
            last = 0.9 * last + o.T @ inverse @ (r - o @ (0.9 * last))
            rate = min(0.3, 2.4 / np.linalg.norm(last))
            lengths.add(rate == 0.3)
            x = x - rate * last
            np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-12)
        assert lengths == {True, False}

    @pytest.mark.parametrize("scale", [False, True])
    def test_levenberg_marquardt(self, scale, x64):
        fit = FITS["Rat43"]
        x = np.asarray(fit.starts[0])
        opt = eqxopt.LevenbergMarquardt(0.5, scale)
        path, opt = iterates(opt, fit.residuals, x, 15)
        function = jax.jit(lambda x: (fit.residuals(x), jax.jacfwd(fit.residuals)(x)))
        squares = lambda x: np.sum(np.asarray(fit.residuals(x)) ** 2)
        damping, growth, made = 0.5, 2.0, 0
        for got in path:
            r, j = map(np.asarray, function(x))
            metric = np.diag(np.sum(j**2, axis=0)) if scale else np.eye(4)
            step = np.linalg.solve(j.T @ j + damping * metric, j.T @ r)
            promised = (np.sum(r**2) - np.sum((r - j @ step) ** 2)) / 2
            gain = (np.sum(r**2) - squares(x - step)) / 2 / promised
            if gain > 0:
                x, growth, made = x - step, 2.0, made + 1
                damping *= max(1 / 3, 1 - (2 * gain - 1) ** 3)
            else:
                damping, growth = damping * growth, 2 * growth
            np.testing.assert_allclose(got, x, rtol=1e-7)
        assert made == int(opt.accepted) < 15
        np.testing.assert_allclose(0.5 * opt.factor, damping, rtol=1e-5)
        assert opt.growth == growth
        np.testing.assert_allclose(opt.value, squares(x) / 2, rtol=1e-9)

    @pytest.mark.parametrize("name", FITS)
    def test_ends_where_others_do(self, name, x64):
        fit = FITS[name]
        start = np.asarray(fit.starts[1])
        path, _ = iterates(eqxopt.LevenbergMarquardt(), fit.residuals, start, 60)
        theirs = optimistix.least_squares(
            lambda x, _: fit.residuals(x),
            optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-12),
            jnp.asarray(start),
            max_steps=2000,
            throw=False,
        )
        scipys = scipy.optimize.least_squares(
            jax.jit(fit.residuals),
            start,
            jac=jax.jit(jax.jacfwd(fit.residuals)),
            method="lm",
            x_scale="jac",
            ftol=1e-14,
            xtol=1e-14,
        )
        np.testing.assert_allclose(path[-1], scipys.x, rtol=1e-5)
        np.testing.assert_allclose(path[-1], theirs.value, rtol=1e-5)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", FITS)
def test_certified_fits(name, start, x64):
    """To six digits of the parameters and nine of the sum of squares."""
    fit = FITS[name]
    steps = 150 if (name, start) == ("MGH09", 0) else 60
    opt = eqxopt.LevenbergMarquardt()
    path, opt = iterates(opt, fit.residuals, fit.starts[start], steps)
    np.testing.assert_allclose(path[-1], fit.certified, rtol=1e-6)
    np.testing.assert_allclose(2 * opt.value, fit.squares, rtol=1e-9)


def rosenbrock(p):
    return 10 * (p["y"] - p["x"] ** 2), 1 - p["x"]


def valley():
    return {"x": jnp.asarray([-1.2, 0.5]), "y": jnp.asarray([1.0, -1.0])}


def upwards(x):
    """Residuals of 2 at [1, 0], which are larger wherever they seem to be smaller."""
    change = x - jnp.asarray([1.0, 0.0])
    return 2 - (x - jax.lax.stop_gradient(x)) + 1e6 * change**2


SEARCHES = [
    eqxopt.GridLineSearch(),
    eqxopt.BacktrackingLineSearch(),
    eqxopt.ZoomLineSearch(),
]


@pytest.mark.parametrize(
    "make",
    [lambda: eqxopt.LevenbergMarquardt()]
    + [lambda s=s: eqxopt.GaussNewton(linesearch=s, damping=1e-6) for s in SEARCHES],
)
def test_rosenbrock(make, x64):
    p = jax.tree.map(lambda x: x.astype(float), valley())
    step = eqxopt.make_step(rosenbrock, residuals=True)
    opt = make().init(p)
    losses = []
    for _ in range(40):
        p, opt, loss = step(p, opt)
        losses.append(float(loss))
    assert losses[-1] < 1e-20 and np.all(np.diff(losses) <= 0)
    np.testing.assert_allclose(p["y"], [1, 1], rtol=1e-8)


class TestRowwise:
    def points(self):
        return jnp.asarray(RNG.normal(size=(12, 2))), jnp.asarray(RNG.normal(size=12))

    def network(self):
        key = jax.random.key(0)
        return eqx.nn.MLP(2, "scalar", 4, 1, jnp.tanh, key=key, dtype=float)

    def misfit(self, model, x, y):
        """Several residuals of a row, some of them complex."""
        slope = jax.grad(lambda x: model(x))(x)
        return {"value": model(x) - y, "slope": jax.lax.complex(slope, x * model(x))}

    @pytest.mark.parametrize(
        "make",
        [
            lambda: eqxopt.GaussNewton(0.5, 0.1, jacobian="forward"),
            lambda: eqxopt.GaussNewton(0.5, 0.1, jacobian="reverse"),
            lambda: eqxopt.GaussNewton(0.5, 0.1, dense_up_to=0, cg_rtol=1e-12),
            lambda: eqxopt.GaussNewton(linesearch=eqxopt.GridLineSearch(4)),
            lambda: eqxopt.LevenbergMarquardt(),
        ],
    )
    def test_like_vmap(self, make, x64):
        x, y = self.points()
        many = eqxopt.rowwise(self.misfit)
        mapped = lambda m, x, y: jax.vmap(lambda x, y: self.misfit(m, x, y))(x, y)
        ends = []
        for function in (many, mapped):
            step = eqxopt.make_step(function, residuals=True)
            model, opt = self.network(), make().init(self.network())
            for _ in range(4):
                model, opt, _ = step(model, opt, x, y)
            ends.append(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
        for a, b in zip(*ends):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)

    def test_derivatives(self, x64):
        """Of some parameters, of the rows, and of derivatives."""
        x, y = self.points()
        model = self.network()
        one = lambda m, x: m.layers[1](jnp.tanh(m.layers[0](x)))

        def total(function):
            def loss(weight, x):
                m = eqx.tree_at(lambda m: m.layers[0].weight, model, weight)
                return jnp.sum(jnp.sin(function(m, x)))

            slopes = lambda weight, x: sum(
                jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(weight, x)
            )
            weight = model.layers[0].weight
            first = jax.jvp(loss, (weight, x), (weight, x))
            return first, jax.grad(loss, (0, 1))(weight, x), jax.grad(slopes)(weight, x)

        got = total(eqxopt.rowwise(one))
        expected = total(jax.vmap(one, (None, 0)))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)

    def test_each_row_is_derived_once(self):
        """And not once for every row or column of the Jacobian."""
        x, y = jnp.ones((50, 2)), jnp.ones(50)
        p = jnp.ones(40)

        def flops(function):
            residuals = lambda p: function(p, x, y)
            opt = eqxopt.GaussNewton().init(p)
            run = jax.jit(lambda p, opt: opt.apply(p, p, residual_fn=residuals)[0])
            return run.lower(p, opt).compile().cost_analysis()["flops"]

        def one(p, x, y):
            v = p
            for _ in range(5):
                v = jnp.sin(jnp.outer(v, x[0] * p)) @ v
            return jnp.sum(v) - y

        every = flops(jax.vmap(one, (None, 0, 0)))
        assert flops(eqxopt.rowwise(one)) < 0.3 * every


class TestGrid:
    def test_takes_the_best(self, x64):
        residuals, _, x = problem("tall")
        loss = lambda x: 0.5 * jnp.sum(residuals(x)["r"] ** 2)
        x = jnp.asarray(x)
        plain = eqxopt.GaussNewton(damping=1e-8)
        path, _ = iterates(plain, residuals, x, 1)
        rates = 3 * 0.7 ** np.arange(12)
        losses = [loss(x + rate * (path[0] - x)) for rate in rates]
        search = eqxopt.GridLineSearch(12, 0.7, 3.0)
        _, opt = iterates(plain.replace(linesearch=search), residuals, x, 1)
        assert 0 < np.argmin(losses) < 11
        np.testing.assert_allclose(opt.step_size, rates[np.argmin(losses)])
        np.testing.assert_allclose(opt.value, min(losses))
        assert opt.evaluations == 13 and opt.failures == 0

    def test_stays_where_nothing_is_lower(self):
        """And then evaluates nothing any more, until the gradients change."""
        x = jnp.asarray([1.0, -0.0])
        opt = eqxopt.GaussNewton(linesearch=eqxopt.GridLineSearch(2, 0.9)).init(x)
        evaluations = []
        for _ in range(5):
            new, opt = opt.apply(x, x, residual_fn=upwards)
            assert np.asarray(new).tobytes() == np.asarray(x).tobytes()
            evaluations.append(int(opt.evaluations))
        assert evaluations == [3, 3, 3, 3, 0] and opt.value == 4

    def test_infinite_losses(self):
        residuals = lambda x: jnp.where(x > 0.3, x - 0.4, jnp.inf)
        x = jnp.asarray([1.0])
        opt = eqxopt.GaussNewton(2.0, 0, linesearch=eqxopt.GridLineSearch()).init(x)
        x, opt = opt.apply(x, x, residual_fn=residuals)
        np.testing.assert_allclose(x, [0.4], rtol=1e-6)
        assert opt.step_size == 0.5


class TestAtTheMinimum:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_it_rests(self, dtype, x64):
        """Where the loss is not 0, nothing moves any more but for rounding."""
        fit = FITS["Misra1a"]
        x, y = (jnp.asarray(v, dtype) for v in (fit.x, fit.y))
        residuals = lambda p: 1e2 * p["b1"] * (1 - jnp.exp(-1e-4 * p["b2"] * x)) - y
        p = {"b1": jnp.asarray(2.5, dtype), "b2": jnp.asarray(5.0, dtype)}
        step = eqxopt.make_step(residuals, residuals=True, donate=False)
        opt = eqxopt.LevenbergMarquardt().init(p)
        for _ in range(30):
            p, opt, _ = step(p, opt)
        before = opt
        for _ in range(30):
            new, opt, _ = step(p, opt)
            for k in p:
                rtol = 10 * float(jnp.finfo(dtype).eps) ** 0.5
                np.testing.assert_allclose(new[k], p[k], rtol=rtol)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((p, opt)))
        assert opt.value <= before.value
        tolerance = 1e-6 if dtype == jnp.float64 else 1e-2
        np.testing.assert_allclose(p["b1"], 2.3894212918, rtol=tolerance)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: eqxopt.GaussNewton(),
            lambda: eqxopt.GaussNewton(damping=0, momentum=0.5),
            lambda: eqxopt.GaussNewton(damping=0, dense_up_to=0),
            lambda: eqxopt.GaussNewton(linesearch=eqxopt.GridLineSearch(4)),
            lambda: eqxopt.LevenbergMarquardt(),
            lambda: eqxopt.LevenbergMarquardt(scale_damping=True),
            lambda: eqxopt.LevenbergMarquardt(dense_up_to=0),
        ],
    )
    def test_gradients_of_zero(self, make):
        """A loss of 0, and residuals that nothing changes."""
        x = jnp.zeros(3)
        for residuals in (lambda x: x, lambda x: 0 * x + 1):
            opt = make().init(x)
            for _ in range(3):
                new, opt = opt.apply(x, x, residual_fn=residuals)
                np.testing.assert_array_equal(new, x)
            assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(opt))

    def test_a_step_that_is_not_made(self):
        """The parameters stay to the bit, and the damping grows faster and faster."""
        x = jnp.asarray([1.0, -0.0])
        opt = eqxopt.LevenbergMarquardt().init(x)
        factors = []
        for _ in range(4):
            new, opt = opt.apply(x, x, residual_fn=upwards)
            assert np.asarray(new).tobytes() == np.asarray(x).tobytes()
            factors.append(float(opt.factor))
        assert factors == [2, 8, 64, 1024]
        assert opt.gain < 0 and opt.growth == 32 and opt.accepted == 0
        assert opt.value == 4.0

    def test_residuals_that_are_not_finite(self):
        """A trial that is not finite is not made; a start that is not changes
        nothing."""
        x = jnp.asarray([1.0])
        opt = eqxopt.LevenbergMarquardt(1e-6).init(x)
        for bad in (jnp.inf, jnp.nan):
            residuals = lambda x, bad=bad: jnp.where(x > 0.5, x, bad)
            new, after = opt.apply(x, x, residual_fn=residuals)
            assert new == x and after.factor == 2 and after.gain == -jnp.inf
        new, after = opt.apply(x, x, residual_fn=lambda x: x * jnp.nan)
        assert new == x and after.factor == 1

    def test_batches_that_change(self, x64):
        """The gain compares the loss on one batch, before and after."""
        rng = np.random.default_rng(0)
        a, true = rng.normal(size=(30, 8, 4)), rng.normal(size=4)
        step = eqxopt.make_step(lambda x, a: a @ (x - true), residuals=True)
        x = jnp.zeros(4)
        opt = eqxopt.LevenbergMarquardt().init(x)
        for batch in a:
            x, opt, _ = step(x, opt, batch)
        np.testing.assert_allclose(x, true, atol=1e-10)
        assert opt.factor < 0.1


class TestModels:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: eqxopt.GaussNewton(momentum=0.5),
            lambda: eqxopt.GaussNewton(linesearch=eqxopt.GridLineSearch(8)),
            lambda: eqxopt.LevenbergMarquardt(),
        ],
    )
    def test_parameters_without_gradient(self, make, x64):
        """They are constants: the others move as if these were no parameters."""
        p = {"x": jnp.asarray([0.9, 1.2]), "y": jnp.asarray([1.0, 1.1])}
        opt = make().init(p)
        p, opt = opt.apply(p, p, residual_fn=rosenbrock)
        new, after = opt.apply({"x": p["x"], "y": None}, p, residual_fn=rosenbrock)
        np.testing.assert_array_equal(new["y"], p["y"])
        if opt.state != ():
            assert eqx.tree_equal(after.state["y"], opt.state["y"])
        assert not np.array_equal(new["x"], p["x"])
        if isinstance(opt, eqxopt.LevenbergMarquardt):
            own = {"x": p["x"]}
            fresh = make().init(own)
            alone = lambda q: rosenbrock({"x": q["x"], "y": p["y"]})
            whole = make().init(p)
            got, _ = whole.apply({"x": p["x"], "y": None}, p, residual_fn=rosenbrock)
            expected, _ = fresh.apply(own, own, residual_fn=alone)
            np.testing.assert_allclose(got["x"], expected["x"], rtol=1e-12)

    @pytest.mark.parametrize("inner", ["GaussNewton", "LevenbergMarquardt"])
    def test_second_order_on_some(self, inner, x64):
        p = jax.tree.map(lambda x: x.astype(float), valley())
        second = getattr(eqxopt, inner)()
        opt = eqxopt.Partition(
            {"second": second, "first": eqxopt.Adam(0.05)},
            {"x": "first", "y": "second"},
        )
        step = eqxopt.make_step(rosenbrock, residuals=True)
        opt, losses = opt.init(p), []
        for _ in range(150):
            p, opt, loss = step(p, opt)
            losses.append(float(loss))
        assert losses[-1] < 0.02 * losses[0]

    def test_wrappers(self, x64):
        """Accumulated gradients, and updates that are scaled."""
        residuals, _, x = problem("tall")
        x = jnp.asarray(x)
        direct, _ = iterates(eqxopt.GaussNewton(0.5), residuals, x, 1)
        chain = eqxopt.Chain(
            eqxopt.ClipByGlobalNorm(1e-3), eqxopt.GaussNewton(), eqxopt.Scale(0.5)
        )
        opt = chain.init(x)
        new, _ = opt.apply(x, x, residual_fn=residuals)
        np.testing.assert_allclose(new, direct[0], rtol=1e-12)
        opt = eqxopt.Accumulate(eqxopt.GaussNewton(0.5), 2).init(x)
        new, opt = opt.apply(x, x, residual_fn=lambda x: 7 * x)
        np.testing.assert_array_equal(new, x)
        new, opt = opt.apply(x, new, residual_fn=residuals)
        np.testing.assert_allclose(new, direct[0], rtol=1e-12)

    def test_complex_parameters_and_residuals(self, x64):
        """As with the real and the imaginary parts on their own."""
        a = RNG.normal(size=(7, 3)) + 1j * RNG.normal(size=(7, 3))
        b = RNG.normal(size=7) + 1j * RNG.normal(size=7)
        z = RNG.normal(size=3) + 1j * RNG.normal(size=3)
        residuals = lambda p: {"c": jnp.asarray(a) @ p["z"] ** 2 - b, "r": p["z"].imag}
        split = lambda p: residuals({"z": jax.lax.complex(p["re"], p["im"])})
        for make in (
            lambda: eqxopt.GaussNewton(0.5, 0.1, momentum=0.5),
            lambda: eqxopt.LevenbergMarquardt(),
        ):
            whole = {"z": jnp.asarray(z)}
            parts = {"re": jnp.asarray(z.real), "im": jnp.asarray(z.imag)}
            opt, other = make().init(whole), make().init(parts)
            for _ in range(4):
                whole, opt = opt.apply(whole, whole, residual_fn=residuals)
                parts, other = other.apply(parts, parts, residual_fn=split)
            got = np.concatenate([whole["z"].real, whole["z"].imag])
            expected = np.concatenate([parts["re"], parts["im"]])
            np.testing.assert_allclose(got, expected, rtol=1e-9)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    @pytest.mark.parametrize("name", ["GaussNewton", "LevenbergMarquardt"])
    def test_narrow_dtypes(self, name, dtype):
        p = jax.tree.map(lambda x: x.astype(dtype), valley())
        step = eqxopt.make_step(rosenbrock, residuals=True)
        options = {"linesearch": eqxopt.GridLineSearch()} if "Gauss" in name else {}
        opt = getattr(eqxopt, name)(**options).init(p)
        losses = []
        for _ in range(30):
            p, opt, loss = step(p, opt)
            losses.append(float(loss))
        assert p["x"].dtype == dtype
        assert losses[-1] < (1e-9 if dtype == jnp.float32 else 0.1 * losses[0])

    @pytest.mark.parametrize("dense_up_to", [0, 1000])
    def test_mixed_dtypes(self, dense_up_to, x64):
        """Residuals, parameters and data in other dtypes than each other."""
        p = {"w": jnp.ones(3, jnp.float32), "z": jnp.ones(2, jnp.complex64)}
        p |= {"d": jnp.ones(2, jnp.float64), "h": jnp.ones(1, jnp.bfloat16)}
        residuals = lambda p: [x.astype(x.dtype) * 2 - 1 for x in p.values()]
        for opt in (
            eqxopt.GaussNewton(momentum=0.1, dense_up_to=dense_up_to),
            eqxopt.LevenbergMarquardt(dense_up_to=dense_up_to),
        ):
            new, opt = opt.init(p).apply(p, p, residual_fn=residuals)
            for k, x in p.items():
                assert new[k].dtype == x.dtype
                np.testing.assert_allclose(new[k].astype(complex), 0.5 + 0j, rtol=1e-2)

    def test_a_model_without_entries(self):
        p = {"empty": jnp.zeros((0, 2)), "f": jnp.tanh}
        grads = {"empty": p["empty"], "f": None}
        for opt in (eqxopt.GaussNewton(momentum=0.5), eqxopt.LevenbergMarquardt()):
            new, _ = opt.init(p).apply(grads, p, residual_fn=lambda p: jnp.ones(2))
            assert new["empty"].shape == (0, 2)

    @pytest.mark.parametrize("name", ["GaussNewton", "LevenbergMarquardt"])
    def test_many_starts(self, name, x64):
        fit = FITS["Rat43"]
        starts = np.asarray(fit.certified) * (1 + 0.05 * RNG.normal(size=(4, 4)))
        options = {"linesearch": eqxopt.GridLineSearch(6)} if "Gauss" in name else {}
        recipe = getattr(eqxopt, name)(**options)

        def ends(x):
            body = lambda c, _: (c[1].apply(c[0], c[0], residual_fn=fit.residuals), 0)
            return jax.lax.scan(body, (x, recipe.init(x)), length=12)[0][0]

        many = jax.jit(jax.vmap(ends))(jnp.asarray(starts))
        one = jax.jit(ends)
        for x, end in zip(starts, many):
            np.testing.assert_allclose(end, one(jnp.asarray(x)), rtol=1e-7)


class TestLive:
    @pytest.mark.parametrize("name", ["GaussNewton", "LevenbergMarquardt"])
    def test_damping_moves_without_compiling(self, name, x64):
        residuals, _, x = problem("tall")
        traces = []

        def counted(x):
            traces.append(None)
            return residuals(x)

        step = eqxopt.make_step(counted, residuals=True, donate=False)
        x = jnp.asarray(x)
        recipe = getattr(eqxopt, name)
        opt = recipe(damping=0.1).init(x)
        expected, opt, _ = step(x, opt)
        known = len(traces)
        other, _, _ = step(x, recipe(damping=0.2).init(x))
        changed = recipe(damping=0.1).init(x).replace(damping=0.2)
        got, _, _ = step(x, changed)
        assert len(traces) == known
        np.testing.assert_array_equal(got, other)
        assert not np.allclose(got, expected)
        schedule = eqxopt.schedules.Linear(0.1, 0.3, 2)
        opt = recipe(damping=schedule).init(x)
        for damping in (0.1, 0.2, 0.3):
            assert opt.hyperparameters()["damping"] == pytest.approx(damping)
            fixed = opt.replace(damping=damping)
            got, after, _ = step(x, opt)
            expected, _, _ = step(x, fixed)
            np.testing.assert_allclose(got, expected, rtol=1e-12)
            opt = after

    def test_eager_calls_compile_once(self):
        """A new function of the batch in every step compiles nothing again."""
        traces = 0

        def residuals(x, batch):
            nonlocal traces
            traces += 1
            return batch * x

        x = jnp.ones(6)
        opt = eqxopt.GaussNewton(0.5, 0).init(x)
        counts = []
        for i in range(4):
            batch = np.full(6, 1 + i, np.float32)
            x, opt = opt.apply(x, x, residual_fn=lambda x: residuals(x, batch))
            counts.append(traces)
        assert counts[0] == counts[-1]
        np.testing.assert_allclose(x, np.full(6, 0.5**4), rtol=1e-6)


class Line(eqx.Module):
    slope: jax.Array
    offset: jax.Array
    name: str = eqx.field(static=True, default="line")

    def __call__(self, x):
        return self.slope * x + self.offset


def line():
    return Line(jnp.zeros(()), jnp.zeros(()))


def data():
    x = jnp.linspace(-1, 1, 64)
    return x, 2 * x - 0.5


def misfits(model, x, y):
    return {"first": (model(x) - y)[:10], "rest": (model(x) - y)[10:]}


def half_squares(model, x, y):
    return 0.5 * jnp.sum((model(x) - y) ** 2)


class TestTraining:
    def test_adam_is_given_the_loss(self):
        """The same steps as with the loss itself."""
        with_residuals = eqxopt.make_step(misfits, residuals=True)
        with_loss = eqxopt.make_step(half_squares)
        one, other = line(), line()
        opt, other_opt = (eqxopt.Adam(0.1).init(x) for x in (one, other))
        for _ in range(5):
            one, opt, loss = with_residuals(one, opt, *data())
            other, other_opt, expected = with_loss(other, other_opt, *data())
            np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(one.slope, other.slope, rtol=1e-5)

    @pytest.mark.parametrize(
        "opt",
        [
            eqxopt.GaussNewton(damping=1e-6),
            eqxopt.GaussNewton(damping=1e-6, linesearch=eqxopt.GridLineSearch(4)),
            eqxopt.LevenbergMarquardt(),
            eqxopt.LBFGS(),
        ],
    )
    def test_make_step(self, opt):
        step = eqxopt.make_step(misfits, residuals=True)
        model, opt = line(), opt.init(line())
        for _ in range(6):
            model, opt, loss = step(model, opt, *data())
        np.testing.assert_allclose(model.slope, 2, rtol=1e-4)
        np.testing.assert_allclose(loss, 0, atol=1e-6)

    @pytest.mark.parametrize("name", ["GaussNewton", "LevenbergMarquardt", "Adam"])
    def test_fit(self, name):
        recipe = eqxopt.Adam(0.1) if name == "Adam" else getattr(eqxopt, name)()
        model, opt, history = eqxopt.fit(
            misfits,
            line(),
            recipe.init(line()),
            data(),
            steps=150 if name == "Adam" else 12,
            batch_size=32,
            key=jax.random.key(0),
            residuals=True,
            progress=False,
        )
        np.testing.assert_allclose(model.slope, 2, rtol=0.05)
        assert history.loss[-1] < 0.01 * history.loss[0]

    def test_state_key_and_aux(self):
        def noisy(model, state, x, y, *, key):
            noise = 1e-3 * jax.random.normal(key, x.shape)
            misfit = model(x) - y + noise
            return (misfit, model.slope - 2), state + 1, {"size": jnp.max(misfit)}

        step = eqxopt.make_step(noisy, has_aux=True, residuals=True)
        model, opt = line(), eqxopt.LevenbergMarquardt().init(line())
        state, key = jnp.zeros((), int), jax.random.key(0)
        for _ in range(8):
            model, opt, state, loss, aux = step(
                model, opt, *data(), state=state, key=key
            )
        assert state == 8 and set(aux) == {"size"} and loss < 1e-3
        model, opt, state, history = eqxopt.fit(
            noisy,
            line(),
            eqxopt.GaussNewton().init(line()),
            data(),
            state=jnp.zeros((), int),
            steps=5,
            batch_size=64,
            key=key,
            has_aux=True,
            residuals=True,
            progress=False,
        )
        assert state == 5 and history.aux["size"].shape == (5,)
        np.testing.assert_allclose(model.slope, 2, rtol=1e-2)

    def test_a_tuple_is_a_tree_of_residuals(self):
        step = eqxopt.make_step(lambda x: (x - 1, 2 * x), residuals=True)
        x = jnp.asarray(3.0)
        _, _, loss = step(x, eqxopt.SGD(0.1).init(x))
        assert loss == 20


class TestErrors:
    @pytest.mark.parametrize(
        "opt",
        [
            eqxopt.GaussNewton(),
            eqxopt.GaussNewton(linesearch=eqxopt.GridLineSearch()),
            eqxopt.LevenbergMarquardt(),
        ],
    )
    def test_residuals_are_needed(self, opt):
        x = jnp.ones(2)
        match = f"`{type(opt).__name__}` needs the residuals as a function"
        opt = opt.init(x)
        for known in ({}, {"value": 1.0}, {"value": 1.0, "value_fn": jnp.sum}):
            with pytest.raises(ValueError, match=match):
                opt.apply(x, x, **known)
        step = eqxopt.make_step(lambda x: jnp.sum(x**2), donate=False)
        with pytest.raises(ValueError, match=match):
            step(x, opt)
        group = eqxopt.Partition({"all": opt}, "all").init(x)
        with pytest.raises(ValueError, match=match):
            group.apply(x, x)

    def test_what_residuals_are(self):
        x = jnp.ones(2)
        opt = eqxopt.LevenbergMarquardt().init(x)
        with pytest.raises(TypeError, match="`residual_fn` must give arrays of float"):
            opt.apply(x, x, residual_fn=lambda x: jnp.arange(3))
        with pytest.raises(ValueError, match="`residual_fn` gave no residuals"):
            opt.apply(x, x, residual_fn=lambda x: [])
        step = eqxopt.make_step(lambda x: "a", residuals=True, donate=False)
        with pytest.raises(TypeError, match="`residuals=True` the loss function must"):
            step(x, opt)
        step = eqxopt.make_step(lambda x: x, has_aux=True, residuals=True, donate=False)
        with pytest.raises(TypeError, match=r"must give \(residuals, aux\), not one"):
            step(x, opt)

    def test_options(self):
        with pytest.raises(ValueError, match="takes the batch as a whole"):
            eqxopt.make_step(misfits, residuals=True, microbatches=2)
        with pytest.raises(ValueError, match=r"`damping` must lie in \(0, inf\)"):
            eqxopt.LevenbergMarquardt(0.0)
        with pytest.raises(ValueError, match="`jacobian` is one of 'auto', 'forward'"):
            eqxopt.GaussNewton(jacobian="backward")
        with pytest.raises(TypeError, match="a line search is one such as"):
            eqxopt.GaussNewton(linesearch=0.1)
        x = jnp.ones(2)
        opt = eqxopt.GaussNewton(damping=[0.1, 0.2])
        with pytest.raises(TypeError, match="`GaussNewton.damping` is one number"):
            opt.init([x, x]).apply([x, x], [x, x], residual_fn=lambda x: x)
        opt = eqxopt.LevenbergMarquardt(scale_damping=True, dense_up_to=3).init(x)
        with pytest.raises(ValueError, match="of 2 residuals by 2 parameters has more"):
            opt.apply(x, x, residual_fn=lambda x: x)


def test_shown():
    x = jnp.ones(2)
    opt = eqxopt.LevenbergMarquardt().init(x)
    assert repr(opt) == "LevenbergMarquardt(damping=0.001, cg_rtol=1e-06, count=0)"
    assert {"value", "gain", "factor", "accepted"} <= set(dir(opt))
    table = str(eqxopt.describe(eqxopt.GaussNewton(momentum=0.9).init(x), x))
    assert " 8 B" in table  # the last directions
