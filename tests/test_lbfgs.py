"""L-BFGS and its line searches: the iterates of optax, convergence and failures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Model, rosenbrock

import eqxopt


A = np.random.default_rng(0).normal(size=(30, 6))
B = np.random.default_rng(1).normal(size=30)


def predicted(p):
    return jnp.asarray(A[:, :2]) @ p["x"] + jnp.asarray(A[:, 2:]) @ p["w"].reshape(-1)


def least_squares(p):
    return jnp.sum((predicted(p) - jnp.asarray(B)) ** 2)


def logistic(p):
    margins = jnp.sign(jnp.asarray(B)) * predicted(p)
    penalty = jnp.sum(p["x"] ** 2) + jnp.sum(p["w"] ** 2)
    return jnp.mean(jax.nn.softplus(-margins)) + 0.01 * penalty


def start():
    return {"x": jnp.asarray([-0.5, 0.3]), "w": jnp.asarray([[1.2, 0.1], [-1.0, 0.6]])}


def iterates(opt, loss, steps, params=None):
    """The parameters, the loss and the evaluations after each step."""

    def body(carry, _):
        params, opt = carry
        value, grads = opt.value_and_grad(loss, params)
        params, opt = opt.apply(grads, params, value=value, value_fn=loss)
        return (params, opt), (params, loss(params), opt.evaluations)

    params = start() if params is None else params
    return jax.jit(lambda p: jax.lax.scan(body, (p, opt.init(p)), length=steps)[1])(
        params
    )


def optax_iterates(tx, loss, steps):
    reuse = optax.value_and_grad_from_state(loss)
    searches = any("Linesearch" in type(x).__name__ for x in tx.init(start()))

    def body(carry, _):
        params, state = carry
        if searches:
            value, grads = reuse(params, state=state)
        else:
            value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        params = optax.apply_updates(params, updates)
        steps = state[-1].info.num_linesearch_steps if searches else None
        return (params, state), (params, loss(params), steps)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run = jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), length=steps)[1])
        return run(start())


def zoom():
    options = (15, 4.0, 1e-9, 3.0, 1e-3, 0.5, None, 1e-4, "keep")
    return (
        eqxopt.LBFGS(0.5, 3, False, eqxopt.ZoomLineSearch(*options)),
        optax.lbfgs(0.5, 3, False, optax.scale_by_zoom_linesearch(*options)),
    )


def backtracking():
    options = (15, 0.1, 0.5, 2.0, 3.0, 1e-12, 1e-12)
    search = optax.scale_by_backtracking_linesearch(*options, store_grad=True)
    ours = eqxopt.BacktrackingLineSearch(*options)
    return eqxopt.LBFGS(None, 4, linesearch=ours), optax.lbfgs(
        None, 4, linesearch=search
    )


def at_rate():
    rate = optax.linear_schedule(0.1, 0.01, 20)
    return (
        eqxopt.LBFGS(eqxopt.schedules.Linear(0.1, 0.01, 20), 3, linesearch=None),
        optax.lbfgs(lambda step: rate(jnp.asarray(step, float)), 3, linesearch=None),
    )


PAIRS = {
    "default": lambda: (eqxopt.LBFGS(), optax.lbfgs()),
    "zoom": zoom,
    "backtracking": backtracking,
    "rate": at_rate,
}


@pytest.mark.parametrize(
    "name, loss, steps",
    [(name, rosenbrock, 25) for name in PAIRS]
    + [("default", least_squares, 8), ("default", logistic, 8)],
)
def test_iterates_of_optax(name, loss, steps, x64):
    """Both take the same steps with the same number of evaluations, down to the
    minimum."""
    opt, tx = PAIRS[name]()
    ours, our_losses, our_evaluations = iterates(opt, loss, steps)
    theirs, losses, evaluations = optax_iterates(tx, loss, steps)
    for k in ours:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(our_losses, losses, rtol=1e-8)
    if evaluations is not None:
        np.testing.assert_array_equal(our_evaluations, evaluations)


@pytest.mark.parametrize("loss", [least_squares, logistic])
@pytest.mark.parametrize(
    "search", [eqxopt.ZoomLineSearch, eqxopt.BacktrackingLineSearch]
)
def test_convergence(loss, search, x64):
    """The loss reaches the minimum in 15 steps, never rises by more than rounding, and
    the gradient vanishes."""
    opt = eqxopt.LBFGS(linesearch=search())
    params, losses, _ = iterates(opt, loss, 40)
    assert losses[14] - losses[-1] < 1e-10
    assert np.all(np.diff(losses) <= 1e-14 * np.abs(losses[:-1]))
    slopes = jax.grad(loss)(jax.tree.map(lambda x: x[20], params))
    assert max(np.max(np.abs(x)) for x in jax.tree.leaves(slopes)) < 1e-8


def two_loop_recursion(grad, pairs, first):
    """Algorithm 7.4 of Nocedal and Wright."""
    q, alphas = grad.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    s, y = pairs[-1] if pairs else (1.0, 1.0)
    r = (np.dot(s, y) / np.dot(y, y) if pairs else first) * q
    for (s, y), alpha in zip(pairs, reversed(alphas)):
        r += s * (alpha - y @ r / (s @ y))
    return r


def test_two_loop_recursion(x64):
    """A complex number counts as two real ones. A pair without curvature is not
    stored."""
    rng = np.random.default_rng(2)
    hessian = np.diag([3.0, 1.0, 2.0, 5.0, -1.0, 4.0])
    as_real = lambda z: np.concatenate([z.real, z.imag])
    params = {"z": jnp.asarray(rng.normal(size=3) + 1j * rng.normal(size=3))}
    opt = eqxopt.LBFGS(0.2, 3, linesearch=None).init(params)
    x, pairs, before = as_real(np.asarray(params["z"])), [], None
    for _ in range(12):
        grad = hessian @ x
        if before is not None and (x - before[0]) @ (grad - before[1]) > 0:
            pairs = [*pairs, (x - before[0], grad - before[1])][-3:]
        before = x.copy(), grad
        x = x - 0.2 * two_loop_recursion(grad, pairs, min(1, 1 / np.linalg.norm(grad)))
        grads = {"z": jnp.asarray(grad[:3] + 1j * grad[3:])}
        params, opt = opt.apply(grads, params)
        np.testing.assert_allclose(as_real(np.asarray(params["z"])), x, rtol=1e-10)
    assert 3 < int(opt.pairs) < 11


def complex_loss(p):
    weights = jnp.asarray([1.0, 9.0], jnp.float32)
    return jnp.sum(jnp.abs(p["z"] - jnp.asarray(1 - 2j, jnp.complex64)) ** 2 * weights)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16, jnp.complex64])
def test_dtypes(dtype, x64):
    """A scan carries the optimizer in every dtype, and the loss falls."""
    complex_ = dtype == jnp.complex64
    params = {"z": jnp.ones(2, dtype)}
    loss = (
        complex_loss
        if complex_
        else lambda p: jnp.sum((p["z"] - jnp.asarray([3, -2], dtype)) ** 2)
    )
    after, losses, _ = iterates(eqxopt.LBFGS(), loss, 10, params)
    assert after["z"].dtype == dtype
    assert losses[-1] < 1e-3 * loss(params)


class Counted:
    """A loss that counts its evaluations, also inside a compiled program."""

    def __init__(self, loss):
        self.loss, self.evaluations = loss, 0

    def __call__(self, params):
        def count():
            self.evaluations += 1

        jax.debug.callback(count)
        return self.loss(params)


@pytest.mark.parametrize(
    "search", [eqxopt.ZoomLineSearch, eqxopt.BacktrackingLineSearch]
)
def test_nothing_is_evaluated_twice(search):
    counted = Counted(rosenbrock)
    params = start()
    opt = eqxopt.LBFGS(linesearch=search()).init(params)
    counts = []
    for _ in range(4):
        value, grads = opt.value_and_grad(counted, params)
        jax.effects_barrier()
        counts.append(counted.evaluations)
        params, opt = opt.apply(grads, params, value=value, value_fn=counted)
        jax.effects_barrier()
        counts.append(counted.evaluations)
        expected, slopes = jax.value_and_grad(rosenbrock)(params)
        np.testing.assert_allclose(opt.value, expected, rtol=1e-5)
        for k in slopes:
            np.testing.assert_allclose(opt.state[k].grad, slopes[k], rtol=1e-3)
    assert counts[0] == 1  # at the start
    searches = np.diff([counts[0], *counts[1::2]])
    assert counts[2::2] == counts[1:-1:2]
    assert searches[-1] == opt.evaluations and np.all(searches >= 1)


def test_eager_loop_compiles_once():
    """A new function of the batch in every step compiles nothing again."""
    traces = 0
    params = start()
    opt = eqxopt.LBFGS().init(params)

    def loss(params, target):
        nonlocal traces
        traces += 1
        return jnp.sum((params["x"] - target) ** 2)

    counts = []
    for step in range(5):
        target = np.full(2, step, np.float32)
        loss_fn = lambda p: loss(p, target)
        value, grads = opt.value_and_grad(loss_fn, params)
        _, grads = jax.value_and_grad(lambda p: jnp.sum((p["x"] - target) ** 2))(params)
        value = jnp.sum((params["x"] - target) ** 2)
        params, opt = opt.apply(grads, params, value=value, value_fn=loss_fn)
        counts.append(traces)
        np.testing.assert_allclose(opt.value, jnp.sum((params["x"] - target) ** 2))
    assert counts[0] == counts[-1]


FAILURES = {
    "no decrease": (lambda x: -jnp.exp(-jnp.sum(x**2) * 1e-30), [1.0, 1.0]),
    "nan at the trial": (
        lambda x: jnp.where(x[0] < 0.9, jnp.nan, jnp.sum(x**2)),
        [1.0, 1.0],
    ),
    "nan slope at the trial": (lambda x: jnp.sum(jnp.sqrt(jnp.abs(x))), [1.0, 0.5]),
    "no gradient": (lambda x: jnp.sum(x**2), [0.0, 0.0]),
    "nan at the start": (lambda x: jnp.sum(jnp.sqrt(x - 2)), [1.0, 1.0]),
    "no lower bound": (lambda x: jnp.sum(jnp.log(x)), [1.0, 1.0]),
    "infinite at the start": (lambda x: jnp.sum(x**2) / (x[0] - 1), [1.0, 1.0]),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize(
    "search", [eqxopt.ZoomLineSearch, eqxopt.BacktrackingLineSearch]
)
def test_failures(name, search):
    """The parameters stay finite, and the loss never rises."""
    loss, at = FAILURES[name]
    x = jnp.asarray(at)
    opt = eqxopt.LBFGS(linesearch=search()).init(x)

    @jax.jit
    def step(x, opt):
        value, grads = jax.value_and_grad(loss)(x)
        return *opt.apply(grads, x, value=value, value_fn=loss), value

    for _ in range(5):
        new, opt, value = step(x, opt)
        assert np.all(np.isfinite(new))
        assert not loss(new) > value
        assert int(opt.evaluations) <= 21
        x = new


@pytest.mark.parametrize(
    "search", [eqxopt.ZoomLineSearch, eqxopt.BacktrackingLineSearch]
)
def test_uphill_direction(search):
    """If the gradients point the wrong way, the search does not make the loss worse.
    If they are NaN, it does not begin."""
    x = jnp.asarray([1.0, 2.0])
    loss = lambda x: jnp.sum(x**2)
    opt = eqxopt.LBFGS(linesearch=search()).init(x)
    new, opt = opt.apply(-2 * x, x, value=loss(x), value_fn=loss)
    assert loss(new) <= loss(x) and np.all(np.isfinite(new))
    nans = jnp.full(2, jnp.nan)
    new, opt = opt.apply(nans, x, value=loss(x), value_fn=loss)
    np.testing.assert_array_equal(new, x)
    assert opt.evaluations == 0 and opt.pairs == 0


def test_longest_step():
    x = jnp.asarray([100.0])
    loss = lambda x: jnp.sum(x**2)
    search = eqxopt.ZoomLineSearch(max_learning_rate=3.0, curv_rtol=0.01)
    opt = eqxopt.LBFGS(linesearch=search).init(x)
    value, grads = jax.value_and_grad(loss)(x)
    new, opt = opt.apply(grads, x, value=value, value_fn=loss)
    assert opt.step_size == 3 and opt.evaluations == 3
    np.testing.assert_allclose(new, 97.0)


@pytest.mark.parametrize("most", [1, 3])
def test_limit_of_evaluations(most):
    x = jnp.asarray([100.0])
    loss = lambda x: jnp.sum(x**2)
    for search, allowed in (
        (eqxopt.ZoomLineSearch(most, curv_rtol=0.0), most),
        (eqxopt.BacktrackingLineSearch(most, slope_rtol=2.0), most + 1),
    ):
        opt = eqxopt.LBFGS(linesearch=search).init(x)
        value, grads = jax.value_and_grad(loss)(x)
        new, opt = opt.apply(grads, x, value=value, value_fn=loss)
        assert opt.evaluations == allowed
        assert loss(new) < loss(x)  # lower, if not by enough


@pytest.mark.parametrize("absent", [None, "float0"])
def test_absent_gradient(absent):
    """A parameter without a gradient stays, and the others train."""
    params = start()
    opt = eqxopt.LBFGS().init(params)
    for _ in range(3):
        value, grads = jax.value_and_grad(rosenbrock)(params)
        params, opt = opt.apply(grads, params, value=value, value_fn=rosenbrock)
    value, grads = jax.value_and_grad(rosenbrock)(params)
    grads["w"] = None if absent is None else np.zeros((2, 2), jax.dtypes.float0)
    new, new_opt = opt.apply(grads, params, value=value, value_fn=rosenbrock)
    assert eqx.tree_equal(new["w"], params["w"])
    assert eqx.tree_equal(new_opt.state["w"], opt.state["w"])
    assert rosenbrock(new) < rosenbrock(params)


@pytest.mark.parametrize("make", [eqxopt.LBFGS, eqxopt.BFGS, eqxopt.NewtonCG])
def test_whole_model_and_no_parameters(make):
    model = Model()
    x = jax.random.normal(jax.random.key(0), (8, 3))
    loss = lambda model: jnp.mean(jax.vmap(model)(x) ** 2)
    opt = make().init(model)
    before = jax.tree.structure(opt)
    for _ in range(3):
        value, grads = opt.value_and_grad(loss, model)
        model, opt = opt.apply(grads, model, value=value, value_fn=loss)
    assert jax.tree.structure(opt) == before
    assert opt.value < 0.1 * eqx.filter_jit(loss)(Model())
    empty = {"f": jnp.tanh}
    opt = make().init(empty)
    after, opt = opt.apply({"f": None}, empty, value=0.0, value_fn=lambda m: 0.0)
    assert after == empty and opt.count == 1


def test_make_step_with_batches():
    step = eqxopt.make_step(
        lambda p, c: jnp.sum((p["x"] - c) ** 4) + jnp.sum(p["w"] ** 2)
    )
    params = start()
    opt = eqxopt.LBFGS().init(params)
    for i in range(20):
        params, opt, loss = step(params, opt, 1 + 0.01 * (-1.0) ** i)
    assert loss < 1e-4


def loss_after_training(rate, search, x):
    """The loss after three steps from `x`."""
    opt = eqxopt.LBFGS(rate, linesearch=search()).init(x)
    loss = lambda x: jnp.sum(jnp.cosh(x) * jnp.asarray([1.0, 3.0]))
    for _ in range(3):
        value, grads = opt.value_and_grad(loss, x)
        x, opt = opt.apply(grads, x, value=value, value_fn=loss)
    return loss(x)


@pytest.mark.parametrize(
    "search", [eqxopt.ZoomLineSearch, eqxopt.BacktrackingLineSearch]
)
def test_forward_mode_and_vmap(search, x64):
    x = jnp.asarray([2.0, -1.0])
    run = jax.jit(lambda rate: loss_after_training(rate, search, x))
    rates = jnp.asarray([0.5, 0.7])
    np.testing.assert_allclose(jax.vmap(run)(rates), [run(r) for r in rates], rtol=1e-9)
    value, slope = jax.jvp(run, (0.7,), (1.0,))
    assert value == pytest.approx(float(run(0.7)))
    numeric = (run(0.7 + 1e-6) - run(0.7 - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, numeric, rtol=1e-5)
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(run)(0.7)


def test_schedule_in_a_line_search():
    """Numbers of a line search may be schedules."""
    x = jnp.asarray([100.0])
    loss = lambda x: jnp.sum(x**2)
    largest = eqxopt.schedules.Linear(1.0, 3.0, 2)
    search = eqxopt.BacktrackingLineSearch(
        increase_factor=float("inf"), max_learning_rate=largest
    )
    opt = eqxopt.LBFGS(0.5, 1, False, search).init(x)
    sizes = []
    for _ in range(3):
        value, grads = opt.value_and_grad(loss, x)
        x, opt = opt.apply(0.01 * grads, x, value=value, value_fn=loss)
        sizes.append(float(opt.step_size))
    assert sizes == [1.0, 2.0, 3.0]


def test_state_is_sharded_and_copied():
    mesh = jax.make_mesh((8,), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = {"w": jax.device_put(jax.random.normal(jax.random.key(0), (16, 4)), rows)}
    loss = lambda p: jnp.sum(jnp.square(p["w"]))
    for init in (
        lambda p: eqxopt.LBFGS().init(p),
        jax.jit(lambda p: eqxopt.LBFGS().init(p)),
    ):
        opt = init(params)
        spec = opt.state["w"].param_diffs.sharding.spec
        assert tuple(spec)[:2] == (None, "x")
        value, grads = opt.value_and_grad(loss, params)
        new, opt = opt.apply(grads, params, value=value, value_fn=loss)
        assert new["w"].sharding.is_equivalent_to(rows, 2)
        assert loss(new) < loss(params)
    params = start()
    leaves = jax.tree.leaves((params, eqxopt.LBFGS().init(params)))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


class TestErrors:
    def test_missing_arguments(self):
        params = start()
        opt = eqxopt.LBFGS().init(params)
        with pytest.raises(ValueError, match="`LBFGS` needs .*value=loss, value_fn="):
            opt.apply(params, params, value_fn=rosenbrock)
        with pytest.raises(ValueError, match="needs the loss as a function"):
            opt.apply(params, params, value=1.0)
        with pytest.raises(ValueError, match="no state: call `opt = opt.init"):
            eqxopt.LBFGS().value_and_grad(rosenbrock, params)

    def test_value_fn_must_return_a_scalar(self):
        params = start()
        opt = eqxopt.LBFGS().init(params)
        with pytest.raises(ValueError, match=r"`value_fn` must give a scalar.*\(2,\)"):
            opt.apply(params, params, value=1.0, value_fn=lambda p: p["x"])

    def test_invalid_options(self):
        with pytest.raises(ValueError, match=r"`memory_size` must be an integer of"):
            eqxopt.LBFGS(memory_size=0)
        with pytest.raises(TypeError):
            eqxopt.LBFGS(linesearch="zoom")
        with pytest.raises(ValueError, match=r"`initial_guess_strategy` is one of"):
            eqxopt.ZoomLineSearch(initial_guess_strategy="two")
        with pytest.raises(ValueError, match=r"`decrease_factor` must lie in \(0, 1\)"):
            eqxopt.BacktrackingLineSearch(decrease_factor=1.0)
        params = start()
        search = eqxopt.ZoomLineSearch(tol={"x": 0.1, "w": 0.1})
        opt = eqxopt.LBFGS(linesearch=search).init(params)
        with pytest.raises(TypeError, match=r"`ZoomLineSearch.tol` is one number"):
            opt.apply(params, params, value=1.0, value_fn=rosenbrock)
