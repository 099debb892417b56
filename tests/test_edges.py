"""Numbers at the edges: counts at their end, huge gradients, decays and eps of 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import each, OPTIMIZERS, TRANSFORMS, WRAPPERS
from problems import small_params
from training_loops import in_optax, last_step, step

import eqxopt
from eqxopt import schedules
from eqxopt._abstract.averages import first_iterates, next_iterates
from eqxopt._math import ema, lerp, plus_one, plus_one_if, squarable


LAST = np.iinfo(np.int32).max


def is_finite(tree):
    return all(np.all(np.isfinite(np.asarray(x))) for x in jax.tree.leaves(tree))


def counted_to(count, opt):
    """The optimizer with every count that it keeps, however deep, at `count`."""
    set_count = lambda x: jnp.full_like(x, count) if x.dtype == jnp.int32 else x
    return jax.tree.map(set_count, opt)


def filled(params, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), params)


def with_zeros(opt, *names):
    """The optimizer with each hyperparameter of these names at 0 where it may be."""
    for name in opt.hyperparameters():
        if name.split(".")[-1].startswith(names):
            try:
                opt = opt.replace(**{name: 0.0})
            except ValueError:  # it has to be positive
                pass
    return opt


EPS = "eps", "graft_eps", "min_norm"
# With a gradient of 0, these still move a parameter: by noise, towards 0, to where
# their start at more than 0 points, or as residuals say.
RESTLESS = {"Fromage", "NoisySGD", "Scion", "Yogi"}
RESTLESS |= {"GaussNewton", "LevenbergMarquardt"}


@pytest.mark.parametrize("name", each(OPTIMIZERS))
class TestEveryOptimizer:
    """All of it runs in one program."""

    def test_counts_stay_at_the_largest(self, name):
        grads = small_params(seed=1)
        for count in LAST - 1, LAST:
            params = small_params()
            opt = counted_to(count, OPTIMIZERS[name].make().init(params))
            for _ in range(2):
                params, opt = step(opt, params, grads)
                assert is_finite(params) and is_finite(opt)
                assert opt.count == LAST
                counts = [x for x in jax.tree.leaves(opt) if x.dtype == jnp.int32]
                assert all(np.all(x >= 0) for x in counts)

    @pytest.mark.parametrize("size", [1e25, 1e38])
    def test_huge_gradients(self, name, size):
        """One of them spoils neither the state nor what follows."""
        params = small_params()
        opt = OPTIMIZERS[name].make().init(params)
        signs = jax.tree.map(jnp.sign, small_params(seed=1))
        for scale in size, 1.0, 1.0:
            grads = jax.tree.map(lambda x: scale * x, signs)
            params, opt = step(opt, params, grads)
            assert not any(np.any(np.isnan(x)) for x in jax.tree.leaves((params, opt)))
        assert is_finite(opt.state)

    def test_eps_of_zero(self, name):
        """Where a gradient was always 0, nothing moves."""
        params = small_params()
        opt = with_zeros(OPTIMIZERS[name].make().init(params), *EPS, "weight_decay")
        for grads in filled(params, 0.0), small_params(seed=1):
            grads["vector"] = jnp.zeros(3)
            after, opt = step(opt, params, grads)
            assert is_finite(after) and is_finite(opt)
            if name not in RESTLESS:
                np.testing.assert_array_equal(after["vector"], params["vector"])
            params = after


@pytest.mark.parametrize("name", each(WRAPPERS))
def test_wrappers(name):
    """Their counts stay at the largest, and huge gradients pass."""
    grads = small_params(seed=1)
    for count in LAST - 1, LAST:
        params = small_params()
        opt = counted_to(count, WRAPPERS[name].make().init(params))
        for _ in range(2):
            params, opt = step(opt, params, grads)
            assert is_finite(params)
            counts = [x for x in jax.tree.leaves(opt) if x.dtype == jnp.int32]
            assert all(np.all(x >= 0) for x in counts)
    params = small_params()
    opt = WRAPPERS[name].make().init(params)
    for scale in 1e25, 1.0, 1.0:
        grads = jax.tree.map(lambda x: scale * jnp.sign(x), small_params(seed=1))
        params, opt = step(opt, params, grads)
        assert not any(np.any(np.isnan(x)) for x in jax.tree.leaves((params, opt)))


@pytest.mark.parametrize("name", each(TRANSFORMS))
def test_transforms(name):
    params, grads = small_params(), small_params(seed=1)
    transform = counted_to(LAST - 1, TRANSFORMS[name].make().init(params))
    for _ in range(2):
        params, transform = last_step(transform, params, grads)
        assert is_finite(params) and transform.count == LAST


def after(opt, grads, params=1.0, dtype=jnp.float32):
    """The parameter, and the one to evaluate, after a step along each of `grads`."""
    params = jnp.asarray(params, dtype)
    opt = opt.init(params)
    for grad in grads:
        params, opt = opt.apply(jnp.asarray(grad, dtype), params)
    return params, opt.eval_params(params)


class TestAverages:
    @pytest.mark.parametrize("mean", [0.0, 1e4, -3e38])
    @pytest.mark.parametrize("decay", [0.0, 1e-4, 0.3, 0.9, 0.9999])
    def test_ema(self, decay, mean):
        new = 0.1 if abs(mean) < 1e30 else 3e38
        got = ema(*(jnp.float32(x) for x in (mean, new, decay)))
        wide = [np.float64(np.float32(x)) for x in (mean, new, decay)]
        expected = wide[2] * wide[0] + (1 - wide[2]) * wide[1]
        largest = max(abs(wide[2] * wide[0]), abs(wide[1]))
        assert abs(got - expected) <= 2e-7 * largest

    def test_a_decay_of_0_forgets(self):
        assert ema(jnp.float32(1e10), jnp.float32(0.1), jnp.float32(0)) == 0.1

    @pytest.mark.parametrize("done", [0.0, 0.1, 0.5, 0.7, 1.0])
    def test_lerp(self, done):
        start, end = jnp.float32(1e8), jnp.float32(0.1)
        got = lerp(start, end, jnp.float32(done))
        assert abs(got - ((1 - done) * 1e8 + done * 0.1)) <= 16
        assert lerp(end, end, jnp.float32(done)) == end
        if done in (0, 1):
            assert got == (start, end)[int(done)]

    @pytest.mark.parametrize(
        "opt, grads, expected",
        [
            (eqxopt.Adam(1e-3, b1=0.0, b2=0.0), (1e4, 0.1), 0.998),
            (eqxopt.LaProp(1e-3, b1=0.0, b2=0.0), (1e4, 0.1), 0.998),
            (eqxopt.RMSProp(1e-3, decay=0.0, eps=1e-12), (1e4, 0.1), 0.998),
            (eqxopt.Adadelta(1.0, rho=0.0), (1e4, 0.1), 0.9975859),
            (eqxopt.Signum(1e-3, beta=0.0), (1e4, -1e-4), 1.0),
            (eqxopt.NovoGrad(1e-3, b1=0.0, b2=0.0), (1e4, 0.1), 0.998),
            (eqxopt.MARS(1e-3, b1=0.0, b2=0.0, gamma=0.0), (1e4, 0.1), 0.9981),
        ],
        ids=lambda x: (
            type(x).__name__ if isinstance(x, eqxopt.AbstractOptimizer) else ""
        ),
    )
    def test_falling_gradients(self, opt, grads, expected, x64):
        """With decays of 0, float32 does what float64 does."""
        got, wide = after(opt, grads)[0], after(opt, grads, dtype=jnp.float64)[0]
        np.testing.assert_allclose(got, wide, rtol=2e-7)
        np.testing.assert_allclose(wide, expected, rtol=2e-4)

    def test_averages_of_weights(self):
        """A mean that forgets everything is the last value, and one of equal values is
        that value, to the bit."""
        params, mean = after(eqxopt.EMA(eqxopt.SGD(1.0), 0.0), (1e6, -1e6))
        assert mean == params
        whole = eqxopt.Lookahead(eqxopt.SGD(1.0), 1, slow_step_size=1.0)
        assert after(whole, (1e6, -0.3))[0] == after(eqxopt.SGD(1.0), (1e6, -0.3))[0]
        for wrap in (
            lambda opt: eqxopt.EMA(opt, 0.999),
            lambda opt: eqxopt.EMA(opt, 0.9, debias=False),
            lambda opt: eqxopt.Lookahead(opt, 2, 0.8),
            eqxopt.ScheduleFree,
        ):
            assert after(wrap(eqxopt.SGD(0.1)), [0.0] * 9, 0.1) == (0.1,) * 2

    @pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
    @pytest.mark.parametrize("warmup", [1, 1000, 1_000_000])
    def test_schedule_free_weights(self, power, warmup):
        """A million of them are summed to the digits of float32."""
        n = 1_000_000
        zero = jnp.float32(0)

        def body(iterates, i):
            rate = jnp.float32(0.0025) * jnp.minimum((i + 1) / warmup, 1)
            _, new = next_iterates(
                iterates,
                zero,
                zero,
                b1=jnp.float32(0.9),
                lr=rate,
                weight_lr_power=jnp.float32(power),
                dtype=None,
            )
            return new, None

        steps = jnp.arange(n, dtype=jnp.float32)
        last, _ = jax.lax.scan(body, first_iterates(zero, None), steps)
        rates = np.float64(np.float32(0.0025)) * np.minimum(
            np.arange(1, n + 1) / warmup, 1
        )
        np.testing.assert_allclose(last.weight_sum, np.sum(rates**power), rtol=1e-6)


class TestCounts:
    def test_plus_one(self):
        for count, after in (0, 1), (LAST - 1, LAST), (LAST, LAST):
            assert plus_one(jnp.int32(count)) == after
            assert plus_one_if(jnp.array(True), jnp.int32(count)) == after
            assert plus_one_if(jnp.array(False), jnp.int32(count)) == count

    def test_schedules_stay_at_their_end(self):
        rate = schedules.CosineDecay(1.0, 100, alpha=0.25)
        opt = counted_to(LAST, eqxopt.SGD(rate).init(jnp.float32(1)))
        _, opt = opt.apply(jnp.float32(1), jnp.float32(1))
        assert opt.hyperparameters()["learning_rate"] == 0.25


class TestHugeGradients:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
    def test_squarable(self, dtype):
        x = jnp.full((3, 1000), 3e38, dtype) * (1 if dtype == jnp.float32 else 1 + 1j)
        assert np.isfinite(1000 * jnp.sum(jnp.abs(squarable(x)) ** 2))
        ordinary = jnp.array([0.0, -0.0, 1e-30, -1e12], dtype)
        np.testing.assert_array_equal(squarable(ordinary), ordinary)
        assert np.isnan(squarable(jnp.full((), jnp.nan, dtype)))

    @pytest.mark.parametrize("size", [1e25, 1e38])
    def test_a_step_has_the_length_of_any_other(self, size):
        """An optimizer of steps that do not depend on the scale of gradients."""
        for make in (
            eqxopt.Adam,
            eqxopt.LaProp,
            eqxopt.ScheduleFreeAdamW,
            lambda rate: eqxopt.RMSProp(rate, bias_correction=True),
        ):
            moved, _ = after(make(0.1), [size])
            np.testing.assert_allclose(moved, 0.9, rtol=1e-3)

    def test_nan_is_not_hidden(self):
        for make in eqxopt.Adam, eqxopt.NovoGrad, eqxopt.AdamMini, eqxopt.Adafactor:
            assert np.isnan(after(make(0.1), [jnp.nan])[0])


EPS_OF_ZERO = {
    "AdamW": lambda: eqxopt.AdamW(0.1, eps=0.0),
    "Adan": lambda: eqxopt.Adan(0.1, eps=0.0, eps_root=0.0),
    "DAdaptAdamW": lambda: eqxopt.DAdaptAdamW(eps=0.0),
    "LAMB": lambda: eqxopt.LAMB(0.1, eps=0.0),
    "MoMoAdam": lambda: eqxopt.MoMoAdam(0.1, eps=0.0),
    "NovoGrad": lambda: eqxopt.NovoGrad(0.1, eps=0.0),
    "Prodigy": lambda: eqxopt.Prodigy(eps=0.0),
}


@pytest.mark.parametrize("name", EPS_OF_ZERO)
def test_eps_of_zero_has_finite_derivatives(name):
    """By every hyperparameter, where gradients are exactly 0."""

    @jax.jit
    @jax.grad
    def slopes(opt):
        params = {"moves": jnp.ones(2), "still": jnp.ones(2)}
        opt = opt.init(params)
        for scale in 1.0, 0.5:
            grads = {"moves": jnp.array([scale, 0.0]), "still": jnp.zeros(2)}
            params, opt = opt.apply(grads, params, value=jnp.float32(1))
        return jnp.sum(params["moves"]) + jnp.sum(params["still"])

    assert is_finite(slopes(EPS_OF_ZERO[name]()))


@pytest.mark.parametrize("name", ["KLShampoo", "Shampoo", "SOAP"])
def test_a_matrix_waits_for_its_gradients(name):
    """Updates without a gradient do not count for it, also those that would make its
    bases."""
    keys = jax.random.split(jax.random.key(0), 7)
    grads = [jax.random.normal(key, (4, 3)) for key in keys]
    start = {"matrix": jnp.ones((4, 3)), "other": jnp.ones((4, 3))}
    make = getattr(eqxopt, name)
    plain, late = (
        make(0.1, weight_decay=0.0, precondition_frequency=2).init(start)
        for _ in range(2)
    )

    @jax.jit
    def without(opt, params, grad):
        return opt.apply({"matrix": None, "other": grad}, params)

    @jax.jit
    def both(opt, params, grad):
        return opt.apply({"matrix": grad, "other": grad}, params)

    params, waiting = start, start
    for i, grad in enumerate(grads):
        params, plain = both(plain, params, grad)
        for _ in range(i % 3):
            waiting, late = without(late, waiting, grad)
        waiting, late = both(late, waiting, grad)
        np.testing.assert_allclose(waiting["matrix"], params["matrix"], rtol=1e-6)


def test_the_first_gradient_of_a_parameter_may_come_late():
    """No rule divides by a mean that it has not begun."""
    start = {"late": jnp.ones(2), "other": jnp.ones(2)}
    ones = jnp.ones(2)
    for name in ("AcProp", "ADOPT", "AdaBelief", "Adan", "NovoGrad", "OptimisticAdam"):
        opt, params = OPTIMIZERS[name].make().init(start), start
        for grad in (None, None, ones, ones):
            params, opt = opt.apply({"late": grad, "other": ones}, params)
        assert jnp.all(jnp.abs(params["late"] - 1) < 10), name


def test_rules_that_begin_with_the_first_gradient():
    """Of a parameter, or of all, however late it comes."""
    start = {"late": jnp.ones(2), "other": jnp.ones(2)}
    first = {"late": jnp.array([3.0, 4.0]), "other": jnp.array([3.0, 4.0])}
    opt = eqxopt.NovoGrad(0.1).init(start)
    params, opt = opt.apply(first | {"late": None}, start)
    params, opt = opt.apply(first, params)
    np.testing.assert_allclose(params["late"], [0.94, 0.92], rtol=1e-5)
    opt = eqxopt.DoG(init_step=0.1, init_step_type="learning_rate").init(start)
    params, opt = opt.apply(dict.fromkeys(start), start)
    params, opt = opt.apply(first, params)
    np.testing.assert_allclose(params["late"], [0.7, 0.6], rtol=1e-5)


def test_radam_that_never_adapts():
    """Its length of memory reaches the limit in rounding."""
    params = jnp.ones(())
    opt = eqxopt.RAdam(0.1, b1=0.0, b2=0.6, threshold=4.0).init(params)
    for _ in range(90):  # by rounding, it reached the limit after 74
        before, (params, opt) = params, opt.apply(jnp.asarray(3.0), params)
    assert before - params == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "SOAP", "Prodigy", "LBFGS"])
def test_numpy_arrays_are_parameters(name):
    """Small ones, which share their state with others, as well."""
    start = {
        "matrix": np.ones((2, 3), np.float32),
        "number": np.float32(1),
        "of jax": jnp.ones((2, 3)),
        "large": np.ones((70, 70), np.float32),
        "index": np.arange(3),
    }
    loss_fn = lambda x: sum(jnp.sum(x[name] ** 2) for name in start if name != "index")
    step = eqxopt.make_step(loss_fn, donate=False)
    in_jax = jax.tree.map(jnp.asarray, start)
    both = []
    for params in (start, in_jax):
        opt = OPTIMIZERS[name].make().init(params)
        for _ in range(2):
            params, opt, _ = step(params, opt)
        both.append(params)
    jax.tree.map(np.testing.assert_array_equal, *both)


def optax_steps(tx, grads):
    """The parameter after a step of optax along each of `grads`."""
    params = jnp.array(1.0)
    state = tx.init(params)
    for grad in grads:
        updates, state = in_optax(tx.update)(jnp.array(grad), state, params)
        params = params + updates
        yield params


class TestWhatPagesSayOfOptax:
    def test_no_gradient_yet(self):
        assert np.isnan([*optax_steps(optax.contrib.dadapt_adamw(1.0), [0.0] * 2)][-1])
        assert after(eqxopt.DAdaptAdamW(), [0.0] * 2)[0] == 1

    def test_warmup_without_steps(self):
        theirs = optax.warmup_constant_schedule(0.1, 1.0, 0)
        assert all(theirs(step) == jnp.float32(0.1) for step in (0, 1, 1000))
        assert schedules.WarmupConstant(0.1, 1.0, 0)(0) == 1

    def test_one_cycle_rounds_its_corners(self):
        theirs = optax.linear_onecycle_schedule(7, 1.0)
        np.testing.assert_allclose(in_optax(theirs)(2), 1)
        np.testing.assert_allclose(schedules.OneCycleLinear(7, 1.0)(2.1), 1, rtol=1e-6)

    def test_channels_of_one_weight(self):
        grads = jnp.ones((3, 1, 1))
        theirs, _ = optax.centralize().update(grads, optax.centralize().init(grads))
        assert not np.any(theirs)
        ours = eqxopt.CentralizeGradients().init(grads)
        np.testing.assert_array_equal(ours.update(grads, grads)[0], grads)

    def test_nadam_without_a_second_decay(self, x64):
        """As optax's, but not with the paper's factor."""
        theirs = [*optax_steps(optax.nadam(0.1, eps=0.0), [1.0, 0.5])]
        np.testing.assert_allclose(
            after(eqxopt.NAdam(0.1, eps=0.0), [1.0, 0.5], dtype=jnp.float64)[0],
            theirs[-1],
        )
        first = 0.1 * (0.9 * 0.1 / (1 - 0.9**2) + 1)
        np.testing.assert_allclose(theirs[0], 1 - first)

    def test_small_gradients_of_momo(self, x64):
        """optax makes no step where the squared norm is below its bound."""
        params = jnp.array(1.0)
        tx = optax.contrib.momo(1.0)
        small = jnp.array(1e-9)
        updates, _ = tx.update(small, tx.init(params), params, value=jnp.array(1.0))
        assert updates == 0
        opt = eqxopt.MoMo(1.0).init(params)
        assert opt.update(small, params, value=1.0)[0] == -1e-9


class TestDecaysThatMove:
    """The table of the docs: the longest or shortest step under gradients of one
    size."""

    @pytest.mark.parametrize(
        "field, start, end, steps, worst",
        [
            ("b2", 0.9, 0.999, 10, 0.16),
            ("b2", 0.9, 0.999, 1000, 0.80),
            ("b2", 0.9, 0.999, 10_000, 0.9998),
            ("b1", 0.5, 0.99, 10, 9.3),
        ],
    )
    def test_schedules(self, field, start, end, steps, worst, x64):
        decays = {"b1": 0.0, field: schedules.Linear(start, end, steps)}
        lengths = self.lengths(eqxopt.Adam(1.0, eps=0.0, **decays), steps + 100)
        extreme = np.max(lengths) if worst > 1 else np.min(lengths)
        np.testing.assert_allclose(extreme, worst, rtol=0.03)

    def test_replace(self, x64):
        opt = eqxopt.Adam(1.0, b1=0.0, b2=0.9, eps=0.0).init(jnp.array(0.0))
        for _ in range(100):
            _, opt = opt.apply(jnp.array(1.0), jnp.array(0.0))
        step, _ = opt.replace(b2=0.999).update(jnp.array(1.0), jnp.array(0.0))
        np.testing.assert_allclose(step, -0.31, rtol=0.01)

    @staticmethod
    def lengths(opt, steps):
        def body(carry, _):
            params, opt = carry
            new, opt = opt.apply(jnp.array(1.0), params)
            return (new, opt), params - new

        start = jnp.array(0.0)
        return jax.lax.scan(body, (start, opt.init(start)), None, length=steps)[1]
