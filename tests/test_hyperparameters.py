"""Hyperparameters are live: every real one of every optimizer."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import each, OPTIMIZERS as TABLE, OWN_OPTIMIZERS
from problems import params_and_still, still_loss as loss, still_residuals

import eqxopt
from eqxopt import schedules


OPTIMIZERS = TABLE | OWN_OPTIMIZERS


# All tests of one case run in a row, so that they share compiled programs.
every_optimizer = pytest.mark.parametrize("name", each(OPTIMIZERS), scope="module")


loss_and_grads = jax.jit(jax.value_and_grad(loss))


def numbers(opt):
    """The plain numbers among its own hyperparameters, by name."""
    return {
        name: value
        for name, value in opt.hyperparameters().items()
        if "." not in name
        and not isinstance(getattr(opt, name), schedules.AbstractSchedule)
    }


def functions(step):
    """What an optimizer may call."""
    return {
        "value_fn": lambda params: loss(params, step),
        "residual_fn": lambda params: still_residuals(params, step),
    }


def train(opt, steps=4, params=None):
    params = params_and_still() if params is None else params
    return _train(opt, params, steps)


@functools.partial(jax.jit, static_argnums=2)
def _train(opt, params, steps):
    def body(carry, step):
        params, opt = carry
        value, grads = jax.value_and_grad(loss)(params, step)
        return opt.apply(grads, params, value=value, **functions(step)), None

    (params, _), _ = jax.lax.scan(
        body, (params, opt.init(params)), jnp.arange(steps, dtype=float)
    )
    return params


def final_loss(name, hyperparameters):
    params = train(OPTIMIZERS[name].make().replace(**hyperparameters))
    return loss(params, 0.0) + 1e-2 * jnp.sum(params["still"] ** 2)


@every_optimizer
def test_gradient_and_vmap(name, x64):
    """Through training, with respect to every hyperparameter, and over them."""
    final = lambda hyperparameters: final_loss(name, hyperparameters)
    run = jax.jit(jax.value_and_grad(final))
    check_gradient(name, run)
    check_vmap(name, run, jax.jit(jax.vmap(final)))


def check_gradient(name, run):
    """Finite everywhere, and the slope of the loss where there is one."""
    at = numbers(OPTIMIZERS[name].make())
    _, slopes = run(at)
    assert all(np.isfinite(x) for x in slopes.values())
    if not OPTIMIZERS[name].smooth:
        return
    # Off the ends of the ranges, and large enough for differences to be seen.
    inside = {k: jnp.where(x < 1e-3, 0.01, x) for k, x in at.items()}
    _, slopes = run(inside)
    for field, x in inside.items():
        h = 1e-5 * x
        (up, _), (down, _) = run(inside | {field: x + h}), run(inside | {field: x - h})
        assert np.isfinite(slopes[field])
        np.testing.assert_allclose(
            slopes[field], (up - down) / (2 * h), rtol=1e-4, atol=1e-6, err_msg=field
        )


def check_vmap(name, run, batch):
    """A population over every hyperparameter at once, and over each on its own, is
    what its members are alone."""
    at = numbers(OPTIMIZERS[name].make())
    scales = jnp.asarray([0.9, 0.95, 1.0])

    def spread(field):
        return {
            k: jnp.where(x == 0, (1 - scales) / 100, scales * x)
            if field in (k, None)
            else jnp.full(3, x)
            for k, x in at.items()
        }

    for field in (None, *at):
        values = spread(field)
        alone = [run({k: v[i] for k, v in values.items()})[0] for i in range(3)]
        np.testing.assert_allclose(batch(values), alone, rtol=1e-9)


@every_optimizer
def test_schedule_equals_replacing(name, x64):
    """A schedule on every hyperparameter at once is a change of each at each step."""
    case = OPTIMIZERS[name]
    at = numbers(case.make())

    def moved(x, step):
        return jnp.where(x == 0, 1e-3 * step, x * (1 - 0.02 * step))

    moving = {
        k: schedules.Linear(moved(x, 0), moved(x, 10), transition_steps=10)
        for k, x in at.items()
    }
    expected = params = params_and_still()
    scheduled = case.make().replace(**moving).init(params)
    replaced = case.make().init(params)
    for step in range(4):
        value, grads = loss_and_grads(params, float(step))
        known = functions(float(step))
        params, scheduled = scheduled.apply(grads, params, value=value, **known)
        value, grads = loss_and_grads(expected, float(step))
        replaced = replaced.replace(**{k: moved(x, step) for k, x in at.items()})
        now = scheduled_at(scheduled, step)
        assert {k: float(v) for k, v in numbers(replaced).items()} == (
            pytest.approx(now)
        )
        expected, replaced = replaced.apply(grads, expected, value=value, **known)
    for k in params:
        np.testing.assert_allclose(params[k], expected[k], rtol=1e-9, atol=1e-12)


def scheduled_at(opt, step):
    """What `hyperparameters()` said before the update number `step + 1`."""
    fields = {k: getattr(opt, k) for k in opt.hyperparameters() if "." not in k}
    return {k: float(f(step)) for k, f in fields.items()}


@every_optimizer
def test_choice_per_parameter(name, x64):
    """Each parameter trains as if it were alone with its own hyperparameters."""
    case = OPTIMIZERS[name]
    if case.coupled:
        pytest.skip("the parameters depend on each other")
    at = numbers(case.make())
    lower = {k: 0.9 * x for k, x in at.items()}
    by_function = {
        k: lambda path, array, k=k: lower[k] if path == "['matrix']" else at[k]
        for k in at
    }
    by_tree = {k: {"vector": at[k], "matrix": lower[k], "still": at[k]} for k in at}
    whole = params_and_still()
    expected = train(case.make(), params=whole) | {
        "matrix": train(case.make().replace(**lower), params=whole)["matrix"]
    }
    for choices in (by_function, by_tree):
        got = train(case.make().replace(**choices), params=whole)
        for k in whole:
            np.testing.assert_allclose(got[k], expected[k], rtol=1e-9, atol=1e-12)


@every_optimizer
def test_out_of_range(name):
    for field in numbers(OPTIMIZERS[name].make()):
        with pytest.raises(ValueError, match=rf"`{name}\({field}=nan\)`.*must lie in"):
            OPTIMIZERS[name].make().replace(**{field: float("nan")})


class TestConversion:
    def test_integers_and_arrays(self):
        opt = eqxopt.SGD(1, momentum=np.float64(0))
        assert opt.learning_rate.dtype == opt.momentum.dtype == jnp.float32
        assert not opt.learning_rate.weak_type

    def test_a_number_is_copied(self):
        rate = jnp.asarray(0.1)
        opt = eqxopt.SGD(rate)
        assert opt.learning_rate.unsafe_buffer_pointer() != rate.unsafe_buffer_pointer()

    @pytest.mark.parametrize("bad", [True, "0.1", 1j, None])
    def test_not_a_number(self, bad):
        with pytest.raises((TypeError, ValueError)):
            eqxopt.SGD(0.1).replace(momentum=0.9, learning_rate=bad).init({})

    def test_an_array_of_numbers_points_to_vmap(self):
        with pytest.raises(ValueError, match=r"shape \(3,\).*inside `jax.vmap`"):
            eqxopt.SGD(jnp.ones(3))

    def test_schedule_that_gives_no_scalar(self):
        params = {"x": jnp.ones(2)}
        opt = eqxopt.SGD(lambda step: jnp.ones(2) * step.astype(float)).init
        with pytest.raises(ValueError, match=r"scalar.*shape \(2,\)"):
            opt(params).apply(params, params)

    def test_function_of_four_arguments(self):
        with pytest.raises(ValueError, match="needs 4 arguments"):
            eqxopt.SGD(lambda a, b, c, d: 0.1)

    def test_choice_of_schedules(self):
        params = {"a": jnp.ones(()), "b": jnp.ones(())}
        choice = lambda path, x: schedules.Linear(1.0, 0.0, 10) if "a" in path else 0.5
        opt = eqxopt.SGD(choice).init(params)
        for _ in range(5):
            _, opt = opt.apply(params, params)
        rates = opt.hyperparameters()["learning_rate"]
        assert {k: float(v) for k, v in rates.items()} == {"['a']": 0.5, "['b']": 0.5}

    def test_choice_shaped_like_a_callable_model(self):
        layer = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        rates = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (0.5, 1.0))
        got = eqxopt.SGD(rates).init(layer).hyperparameters()["learning_rate"]
        assert {k: float(v) for k, v in got.items()} == {".weight": 0.5, ".bias": 1.0}


class TestReplace:
    def test_state_is_kept(self):
        params = {"x": jnp.ones(2)}
        _, opt = eqxopt.Adam(0.1).init(params).apply(params, params)
        new = opt.replace(learning_rate=0.2, b1=0.8)
        assert new.count == 1 and eqx.tree_equal(new.state, opt.state)
        assert float(opt.learning_rate) == pytest.approx(0.1)
        assert float(new.learning_rate) == pytest.approx(0.2)

    def test_unknown_name(self):
        with pytest.raises(
            TypeError, match="`SGD` has no field `lr`; it has `learning"
        ):
            eqxopt.SGD(0.1).replace(lr=0.2)

    @pytest.mark.parametrize(
        "name, value, interval",
        [("learning_rate", -0.1, r"\[0, inf\)"), ("b1", 1.0, r"\[0, 1\)")],
    )
    def test_out_of_range(self, name, value, interval):
        match = rf"`Adam\({name}={value}\)`.*must lie in {interval}"
        with pytest.raises(ValueError, match=match):
            eqxopt.Adam(0.1).replace(**{name: value})
        with pytest.raises(ValueError, match=match):
            eqxopt.Adam(**({"learning_rate": 0.1} | {name: value}))

    def test_range_of_a_choice_names_the_place(self):
        with pytest.raises(ValueError, match=r"`b1` at \['x'\] must lie in"):
            eqxopt.Adam(0.1, b1={"x": 1.5})

    def test_ranges_under_jit(self):
        with pytest.raises(ValueError, match="must lie in"):
            jax.jit(lambda: eqxopt.Adam(-0.1))()
        jax.jit(eqxopt.Adam)(-0.1)  # not known at trace time
