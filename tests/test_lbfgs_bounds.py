"""L-BFGS between bounds: the solutions of scipy, and never a point outside."""

import queue
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from problems import Model

import eqxopt


inf = np.inf
SEARCHES = [eqxopt.ZoomLineSearch, eqxopt.BacktrackingLineSearch]


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def trained(loss, x, steps, lower=None, upper=None, **options):
    """The parameters and the optimizer after up to `steps` steps."""
    opt = eqxopt.LBFGS(lower=lower, upper=upper, **options).init(x)

    def step(carry, _):
        x, opt = carry
        value, grads = opt.value_and_grad(loss, x)
        return opt.apply(grads, x, value=value, value_fn=loss), opt.evaluations

    return jax.lax.scan(step, (x, opt), length=steps)[0]


def kkt_error(x, grad, lower, upper):
    """How far this is from a minimum in the box, entry by entry."""
    return np.max(np.abs(np.clip(x - grad, lower, upper) - x))


BOXES = {
    "wide": (-10.0, 10.0),
    "edge above": (-np.inf, 0.5),
    "edge below": (1.2, np.inf),
    "corner": (2.0, 3.0),
    "corner below": (-3.0, -2.0),
    "thin": (0.3, 0.31),
    "at the solution": (-np.inf, 1.0),
    "one fixed": ([-3.0, 0.2, -3.0, -3.0], [3.0, 0.2, 3.0, 3.0]),
    "mixed": ([-0.5, -np.inf, 0.1, -1.0], [0.8, 0.4, np.inf, 2.0]),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_bounded_rosenbrock(search, x64):
    """From a start that is inside or outside, all in one program."""
    boxes = [np.broadcast_to(ends, (4,)) for box in BOXES.values() for ends in box]
    lowers, uppers = jnp.asarray(boxes[::2]), jnp.asarray(boxes[1::2])
    start = jnp.asarray([-1.2, 1.0, 0.3, 0.6])
    run = jax.vmap(
        lambda low, high: trained(rosenbrock, start, 70, low, high, linesearch=search())
    )
    found, opts = jax.jit(run)(lowers, uppers)
    gradient = jax.jit(jax.grad(rosenbrock))
    for i, name in enumerate(BOXES):
        low, high = np.asarray(lowers[i]), np.asarray(uppers[i])
        x = np.asarray(found[i])
        assert np.all(low <= x) and np.all(x <= high)
        # Backtracking sees the loss only, and so not what is lost in its rounding.
        tolerance = 1e-8 if search is eqxopt.ZoomLineSearch else 1e-6
        assert kkt_error(x, np.asarray(gradient(x)), low, high) < tolerance, name
        theirs = scipy.optimize.minimize(
            rosenbrock,
            np.clip(start, low, high),
            jac=lambda x: np.asarray(gradient(x)),
            method="L-BFGS-B",
            bounds=list(zip(low, high)),
            options=dict(ftol=0, gtol=1e-9),
        )
        np.testing.assert_allclose(x, theirs.x, atol=1e-6, err_msg=name)
    assert np.all(opts.residual < 1e-6)


A = np.random.default_rng(0).normal(size=(30, 6))
B = np.random.default_rng(1).normal(size=30)


def predicted(p):
    return jnp.asarray(A[:, :2]) @ p["x"] + jnp.asarray(A[:, 2:]) @ p["w"].reshape(-1)


def squares(p):
    return 0.5 * jnp.sum((predicted(p) - jnp.asarray(B)) ** 2)


def start(dtype=None):
    x, w = [-0.5, 0.3], [[1.2, 0.1], [-1.0, 0.6]]
    return {"x": jnp.asarray(x, dtype), "w": jnp.asarray(w, dtype)}


def as_vector(p):
    return np.concatenate([np.asarray(p["x"], float), np.ravel(p["w"]).astype(float)])


TREES = {
    "a number": (0.0, None, [0.0] * 6, inf),
    "a tree": (
        {"x": 0.1, "w": None},
        {"x": 0.2, "w": 0.05},
        [0.1, 0.1, -inf, -inf, -inf, -inf],
        [0.2, 0.2, 0.05, 0.05, 0.05, 0.05],
    ),
    "infinite": ({"x": -inf, "w": 0.0}, inf, [-inf, -inf, 0, 0, 0, 0], inf),
    "arrays": (
        {"x": -0.1, "w": np.array([[0.0, -1.0], [-inf, 0.05]])},
        {"x": np.array([0.0, inf]), "w": 0.1},
        [-0.1, -0.1, 0.0, -1.0, -inf, 0.05],
        [0.0, inf, 0.1, 0.1, 0.1, 0.1],
    ),
    "a function": (
        lambda path, array: 0.0 * array if "x" in path else None,
        lambda path, array: 0.1,
        [0.0, 0.0, -inf, -inf, -inf, -inf],
        0.1,
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_forms_of_bounds(name, x64):
    """Against scipy's exact method for linear least squares."""
    lower, upper, low, high = TREES[name]
    found, opt = jax.jit(lambda p: trained(squares, p, 30, lower, upper))(start())
    solution = scipy.optimize.lsq_linear(A, B, (low, high), method="bvls", tol=1e-14)
    np.testing.assert_allclose(as_vector(found), solution.x, atol=1e-9)
    if name == "a number":
        np.testing.assert_allclose(
            as_vector(found), scipy.optimize.nnls(A, B)[0], atol=1e-9
        )
    assert opt.residual < 1e-8


@pytest.mark.parametrize("search", SEARCHES)
def test_quadratic_programs(search, x64):
    """The conditions of first order hold to 1e-8, also in every zero of a gradient."""

    def problem(seed):
        rng = np.random.default_rng(seed)
        q, _ = np.linalg.qr(rng.normal(size=(30, 30)))
        hessian = (q * np.geomspace(1, 10 ** (seed % 4), 30)) @ q.T
        low = rng.normal(size=30) - 0.5
        high = low + rng.exponential(size=30) * (rng.random(30) < 0.9)
        return hessian, 3 * rng.normal(size=30), low, high, rng.normal(size=30)

    problems = [np.stack(x) for x in zip(*map(problem, range(8)))]

    def solve(hessian, linear, low, high, x):
        product = lambda x: jnp.sum(hessian * x[None, :], 1)
        loss = lambda x: jnp.sum(x * (0.5 * product(x) - linear))
        x, opt = trained(loss, x, 150, low, high, linesearch=search())
        return x, opt.value, product(x) - linear

    solved = jax.jit(jax.vmap(solve))(*map(jnp.asarray, problems))
    for x, value, grad, low, high in zip(*map(np.asarray, solved), *problems[2:4]):
        assert np.all(low <= x) and np.all(x <= high)
        is_zoom = search is eqxopt.ZoomLineSearch
        tolerance = 1e-8 if is_zoom else 1e-8 * max(1, abs(value))
        assert kkt_error(x, grad, low, high) < tolerance
        assert 3 < np.sum((x == low) | (x == high)) < 30


class Recorded:
    """A loss that keeps the points where it is evaluated."""

    def __init__(self, loss):
        self.loss, self.queue = loss, queue.SimpleQueue()

    def __call__(self, params):
        jax.debug.callback(self.queue.put, params)
        return self.loss(params)

    def points(self):
        """Those since this was called last."""
        jax.effects_barrier()
        return [self.queue.get() for _ in range(self.queue.qsize())]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("search", [*SEARCHES, None])
def test_never_outside(search, dtype):
    """Exactly, also where bounds are no numbers of the dtype."""
    low = {"x": np.array([0.1, 0.3]), "w": -0.7}
    high = {"x": 0.7, "w": np.array([[inf, 0.2], [1e-3, 0.6]])}
    weights = jnp.asarray([3e3, 7.0], dtype)

    def loss(p):
        x, w = (p["x"] * 3).astype(dtype), p["w"]
        bent = jnp.sum((jnp.exp(x) - 2) ** 2 * weights) - jnp.sum(jnp.sin(5 * w))
        return bent + 0.1 * jnp.sum((x[0] - w) ** 2)

    recorded = Recorded(loss)
    rate = 0.3 if search is None else None
    opt = eqxopt.LBFGS(
        rate, lower=low, upper=high, linesearch=None if search is None else search()
    )
    p = jax.tree.map(lambda x: 20 * x, start(dtype))
    opt = opt.init(p)

    @jax.jit
    def step(p, opt):
        value, grads = opt.value_and_grad(recorded, p)
        return opt.apply(grads, p, value=value, value_fn=recorded)

    for i in range(12):
        p, opt = step(p, opt)
        if i == 0:
            assert len(recorded.points()) == 1  # the start, which is outside
    points = recorded.points()
    assert len(points) > 10
    assert p["x"].dtype == dtype
    for point in [*points, p]:
        for k in p:
            x = np.asarray(point[k], float)
            assert np.all(np.float32(low[k]) <= x) and np.all(x <= np.float32(high[k]))
    at_bounds = np.isclose(as_vector(p), [0.1, 0.3, 0, 0.2, 1e-3, 0.6], rtol=1e-2)
    assert np.sum(at_bounds) >= 2


def test_start_outside(x64):
    """The first step is the projection. Nothing is evaluated for it."""
    recorded = Recorded(rosenbrock)
    x = jnp.asarray([5.0, -7.0, 0.2])
    opt = eqxopt.LBFGS(lower=-1.0, upper=0.5).init(x)
    value, grads = opt.value_and_grad(recorded, x)
    x, opt = opt.apply(grads, x, value=value, value_fn=recorded)
    np.testing.assert_array_equal(x, [0.5, -1.0, 0.2])
    assert len(recorded.points()) == 1 and opt.evaluations == 0 and opt.pairs == 0
    value, grads = opt.value_and_grad(recorded, x)
    np.testing.assert_allclose(value, rosenbrock(x))
    np.testing.assert_allclose(grads, jax.grad(rosenbrock)(x))
    new, opt = opt.apply(grads, x, value=value, value_fn=recorded)
    assert opt.value < value and opt.evaluations > 0


@pytest.mark.parametrize("search", SEARCHES)
def test_rest_in_a_corner(search):
    """Nothing more is evaluated at a solution. Other bounds wake the optimizer."""
    recorded = Recorded(lambda x: jnp.sum((x - 1) ** 2))
    x = jnp.asarray([0.0, 0.2, -0.1])
    opt = eqxopt.LBFGS(lower=-1.0, upper=0.5, linesearch=search()).init(x)

    @jax.jit
    def step(x, opt):
        value, grads = opt.value_and_grad(recorded, x)
        return opt.apply(grads, x, value=value, value_fn=recorded)

    def steps(x, opt, n):
        for _ in range(n):
            x, opt = step(x, opt)
        return x, opt, len(recorded.points())

    x, opt, _ = steps(x, opt, 5)
    np.testing.assert_array_equal(x, 0.5)
    x, opt, evaluations = steps(x, opt, 5)
    assert evaluations == 0 and opt.evaluations == 0 and opt.residual == 0
    np.testing.assert_array_equal(opt.value, 0.75)
    x, opt, _ = steps(x, opt.replace(upper=0.75), 3)
    np.testing.assert_array_equal(x, 0.75)
    x, opt, _ = steps(x, opt.replace(upper=None), 5)
    np.testing.assert_allclose(x, 1.0, rtol=1e-5)
    x, opt, _ = steps(x, opt.replace(upper=0.25), 2)  # which is now outside
    np.testing.assert_array_equal(x, 0.25)


def test_changing_bounds_compiles_nothing():
    traces = 0

    def loss(p):
        nonlocal traces
        traces += 1
        return jnp.sum((p["x"] - 1) ** 2) + jnp.sum(p["w"] ** 2)

    p = start()
    opt = eqxopt.LBFGS(lower=0.0, upper={"x": np.array([0.5, 0.6]), "w": 1.0}).init(p)
    counts = []
    for i in range(6):
        value, grads = opt.value_and_grad(loss, p)
        p, opt = opt.apply(grads, p, value=value, value_fn=loss)
        counts.append(traces)
        if i == 3:
            opt = opt.replace(lower=-1.0, upper={"x": np.array([0.1, 0.7]), "w": -0.1})
    assert counts[0] == counts[-1]
    np.testing.assert_allclose(p["x"], [0.1, 0.7], rtol=1e-6)
    np.testing.assert_allclose(p["w"], -0.1, rtol=1e-6)


def step_in_box(x, grad, pairs, rate, low, high):
    """The method in NumPy, without a search."""
    scale = min(1, 1 / np.linalg.norm(grad))
    if pairs:
        s, y = pairs[-1]
        scale = s @ y / (y @ y)
    short = x - rate * scale * grad
    held = ((short <= low) & (grad > 0)) | ((short >= high) & (grad < 0))
    free = ~held
    new = np.clip(short, low, high)
    q, kept = grad[free].copy(), []
    for s, y in reversed([(s[free], y[free]) for s, y in pairs]):
        if s @ y > 0:
            kept.append((s, y, s @ q / (s @ y)))
            q -= kept[-1][2] * y
    first = min(1, 1 / np.linalg.norm(grad[free])) if free.any() else 1
    if kept:
        s, y, _ = kept[0]
        first = s @ y / (y @ y)
    r = first * q
    for s, y, alpha in reversed(kept):
        r += s * (alpha - y @ r / (s @ y))
    new[free] = np.clip(x[free] - rate * r, low[free], high[free])
    return new


def test_steps_in_numpy(x64):
    """The recursion over the free entries, and the entries that go to a bound."""
    rng = np.random.default_rng(3)
    q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    hessian = (q * np.geomspace(0.5, 20, 8)) @ q.T
    center = rng.normal(size=8)
    low, high = center - rng.normal(size=8), center + 2 * rng.random(8)
    low = np.minimum(low, high - 0.1)
    x = np.clip(rng.normal(size=8), low, high)
    params = jnp.asarray(x)
    opt = eqxopt.LBFGS(0.7, 4, linesearch=None, lower=low, upper=high).init(params)
    pairs, before = [], None
    for _ in range(15):
        grad = hessian @ (x - center)
        if before is not None:
            s, y = x - before[0], grad - before[1]
            if s @ y > 1e-15 * np.linalg.norm(s) * np.linalg.norm(y):
                pairs = [*pairs, (s, y)][-4:]
        before = x, grad
        x = step_in_box(x, grad, pairs, 0.7, low, high)
        params, opt = opt.apply(jnp.asarray(grad), params)
        np.testing.assert_allclose(params, x, rtol=1e-8, atol=1e-10)
    assert 0 < np.sum((x == low) | (x == high)) < 8


def test_derivatives_without_a_search(x64):
    x = jnp.asarray([0.3, -0.2, 0.1])
    loss = lambda x: jnp.sum(jnp.cosh(x - 1) * jnp.asarray([1.0, 2.0, 3.0]))

    def after(rate, upper):
        opt = eqxopt.LBFGS(rate, linesearch=None, upper=upper)
        p, opt = x, opt.init(x)
        for _ in range(3):
            p, opt = opt.apply(jax.grad(loss)(p), p)
        return loss(p)

    run = jax.jit(after)
    slopes = jax.grad(after, (0, 1))(0.1, 0.35)
    for i, slope in enumerate(slopes):
        ends = [run(*np.add([0.1, 0.35], np.eye(2)[i] * h)) for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("absent", [None, "float0"])
def test_absent_gradient(absent):
    """A parameter without a gradient stays, also outside, and the others train."""
    params = start()
    opt = eqxopt.LBFGS(lower=0.0).init(params)
    grads = jax.grad(squares)(params)
    grads["w"] = None if absent is None else np.zeros((2, 2), jax.dtypes.float0)
    for _ in range(3):
        new, new_opt = opt.apply(grads, params, value=squares(params), value_fn=squares)
        assert eqx.tree_equal(new["w"], params["w"])
        assert eqx.tree_equal(new_opt.state["w"], opt.state["w"])
        params, opt = new, new_opt
        grads["x"] = jax.grad(squares)(params)["x"]
    assert np.all(np.asarray(params["x"]) >= 0)


def test_vmap_over_starts(x64):
    starts = jnp.asarray(np.random.default_rng(4).normal(size=(4, 3)))
    run = lambda x: trained(rosenbrock, x, 40, -2.0, 0.5)[0]
    together = jax.jit(jax.vmap(run))(starts)
    alone = jax.jit(run)
    for x, one in zip(together, starts):
        np.testing.assert_allclose(x, alone(one), rtol=1e-7)


def test_models_and_groups():
    """A whole model, bounds made from it, `make_step`, and a group of a partition."""
    model = Model()
    x = jax.random.normal(jax.random.key(0), (8, 3))
    loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - 1) ** 2)
    arrays = eqx.filter(model, eqx.is_inexact_array)
    bounds = jax.tree.map(lambda x: jnp.full_like(x, 0.2), arrays)
    step = eqxopt.make_step(loss)
    opt = eqxopt.LBFGS(lower=-0.3, upper=bounds).init(model)
    groups = eqxopt.Partition(
        {"box": eqxopt.LBFGS(lower=-0.3, upper=bounds), "still": eqxopt.Freeze()},
        lambda path, array: "box" if array.ndim == 2 else "still",
    ).init(model)
    for opt, moves in ((opt, lambda x: True), (groups, lambda x: x.ndim == 2)):
        new, before = Model(), jax.tree.structure(opt)
        losses = []
        for _ in range(8):
            new, opt, value = step(new, opt, x)
            losses.append(float(value))
        assert jax.tree.structure(opt) == before
        assert losses[-1] < losses[1]
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(model)):
            if not eqx.is_inexact_array(a):
                continue
            if moves(a):
                assert np.all((np.float32(-0.3) <= a) & (a <= np.float32(0.2)))
            else:
                np.testing.assert_array_equal(a, b)


def test_no_bounds():
    """Nothing is kept for bounds where there are none. Bounds may come later."""
    p = start()
    opt = eqxopt.LBFGS().init(p)
    assert not eqx.is_array(opt.residual) and "lower" not in repr(opt)
    value, grads = opt.value_and_grad(squares, p)
    p, opt = opt.replace(upper=0.1).apply(grads, p, value=value, value_fn=squares)
    assert np.all(as_vector(p) <= np.float32(0.1))
    empty = {"f": jnp.tanh}
    opt = eqxopt.LBFGS(lower=0.0).init(empty)
    after, opt = opt.apply({"f": None}, empty, value=0.0, value_fn=lambda m: 0.0)
    assert after == empty and opt.count == 1


def test_arrays_of_its_own():
    """The bounds are leaves, copied by `init`, and shown."""
    bounds = jnp.asarray([0.5, 0.7])
    x = jnp.zeros(2)
    recipe = eqxopt.LBFGS(lower=-1.0, upper=bounds)
    opt = recipe.init(x)
    leaves = jax.tree.leaves((bounds, x, recipe, opt))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
    assert "lower=-1, upper=[0.5, 0.7]" in repr(recipe)
    assert "upper=(['a']: 0.5)" in repr(eqxopt.LBFGS(upper={"a": 0.5, "b": None}))
    shapes = jax.eval_shape(recipe.init, x)
    assert jax.tree.structure(shapes) == jax.tree.structure(opt)


def test_complex_parameters():
    p = {"z": jnp.ones(2, jnp.complex64), "x": jnp.ones(2)}
    loss = lambda p: jnp.sum(jnp.abs(p["z"] - 2) ** 2) + jnp.sum((p["x"] - 2) ** 2)
    with pytest.raises(TypeError, match=r"`LBFGS.upper`, for \['z'\]: a complex"):
        eqxopt.LBFGS(upper=1.5).init(p)
    opt = eqxopt.LBFGS(upper={"x": 1.5, "z": None}).init(p)
    for _ in range(6):
        value, grads = opt.value_and_grad(loss, p)
        p, opt = opt.apply(grads, p, value=value, value_fn=loss)
    np.testing.assert_array_equal(p["x"], 1.5)
    np.testing.assert_allclose(p["z"], 2, rtol=1e-5)


class TestErrors:
    def test_lower_above_upper(self):
        for lower, upper in ((1.0, 0.0), (np.array([0.0, 2.0]), 1.5)):
            with pytest.raises(ValueError, match="`lower` must not be above `upper`"):
                eqxopt.LBFGS(lower=lower, upper=upper).init(jnp.zeros(2))
        tree = {"x": 0.0, "w": np.array([[1, 2], [3, 4]])}
        message = r"above `upper`, but for \['w'\] 3.0 is above 2.5"
        with pytest.raises(ValueError, match=message):
            eqxopt.LBFGS(lower=tree, upper=2.5).init(start())
        opt = eqxopt.LBFGS(upper=2.5).init(start())
        with pytest.raises(ValueError, match="3.0 is above 2.5"):
            opt.replace(lower=3.0)

    def test_values(self):
        wrong: Any
        with pytest.raises(ValueError, match=r"`lower` must lie in \[-inf, inf\]"):
            eqxopt.LBFGS(lower=jnp.nan)
        with pytest.raises(ValueError, match=r"`upper` at \['w'\] must lie in \["):
            eqxopt.LBFGS(upper=lambda path, array: jnp.nan).init(start())
        for wrong, message in (
            ("low", r"`LBFGS\(lower='low'\)`: expected a real"),
            (1j, "expected real numbers"),
            (True, "expected a real number"),
            (eqxopt.schedules.Linear(0.0, 1.0, 10), "no schedule.*`opt.replace`"),
            (lambda step: 0.0, "no schedule.*`opt.replace`"),
        ):
            with pytest.raises(TypeError, match=message):
                eqxopt.LBFGS(lower=wrong)

    def test_fit(self):
        with pytest.raises(ValueError, match=r"`LBFGS.lower`, for \['w'\]: .*\(2, 2\)"):
            eqxopt.LBFGS(lower=np.zeros(2)).init(start())
        with pytest.raises(ValueError, match=r"`LBFGS.upper` has no entry .*\['w'\]"):
            eqxopt.LBFGS(upper={"x": 1.0}).init(start())
        with pytest.raises(ValueError, match=r"`LBFGS.upper` has an entry at \['v'\]"):
            eqxopt.LBFGS(upper={"x": 1.0, "w": 1.0, "v": 1.0}).init(start())
