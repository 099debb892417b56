"""What each wrapper does, and the numbers of optax where it has a counterpart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import nested_loss, nested_params

import eqxopt


STEPS = 25


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def assert_close(ours, theirs, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b)))


def gradients_at(params, step, spoilt=()):
    value, grads = jax.value_and_grad(nested_loss)(params, float(step))
    if step in spoilt:
        grads["layers"][1] = grads["layers"][1].at[0, 0].set(jnp.nan)
    return value, grads


def trained(opt, params, spoilt=()):
    """The optimizer and the parameters after each step."""
    apply = jax.jit(lambda opt, g, p, value: opt.apply(g, p, value=value))
    opt = opt.init(params)
    for step in range(STEPS):
        value, grads = gradients_at(params, step, spoilt)
        params, opt = apply(opt, grads, params, value)
        yield opt, params


def in_optax(function):
    """Optax does not keep to strict promotion."""

    @functools.wraps(function)
    def run(*args):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args)

    return run


@in_optax
def trained_by_optax(tx, params, spoilt=()):
    state, made = tx.init(params), []
    update = jax.jit(lambda g, s, p, value: tx.update(g, s, p, value=value))
    for step in range(STEPS):
        value, grads = gradients_at(params, step, spoilt)
        updates, state = update(grads, state, params, value)
        params = optax.apply_updates(params, updates)
        made.append((state, params))
    return made


class TestAccumulate:
    @pytest.mark.parametrize("moving", [False, True])
    def test_optax(self, moving, x64):
        every = (lambda step: 1 + step % 4) if moving else 3
        ours = eqxopt.Accumulate(eqxopt.AdamW(0.1), every)
        theirs = optax.MultiSteps(
            optax.adamw(0.1), every, accumulator_dtype=jnp.float64
        )
        theirs = optax.GradientTransformationExtraArgs(theirs.init, theirs.update)
        params = nested_params(jnp.float64)
        for (opt, our), (state, their) in zip(
            trained(ours, params), trained_by_optax(theirs, params), strict=True
        ):
            assert_close(our, their)
            assert opt.count == opt.optimizer.count == state.gradient_step
            assert opt.micro_steps == state.mini_step

    def test_optax_dropping(self, x64):
        spoilt = (0, 4, 5, 11)
        ours = eqxopt.Accumulate(eqxopt.Adam(0.1), 3, drop_nonfinite=True)
        steps = optax.MultiSteps(
            optax.adam(0.1),
            3,
            should_skip_update_fn=optax.skip_not_finite,
            accumulator_dtype=jnp.float64,
        )
        theirs = optax.GradientTransformationExtraArgs(
            steps.init, lambda g, s, p, value: steps.update(g, s, p)
        )
        params = nested_params(jnp.float64)
        for (opt, our), (state, their) in zip(
            trained(ours, params, spoilt),
            trained_by_optax(theirs, params, spoilt),
            strict=True,
        ):
            assert_close(our, their)
            assert opt.micro_steps == state.mini_step
        assert opt.dropped == len(spoilt)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_in_between_nothing_changes(self, dtype):
        params = nested_params(dtype) | {"zero": jnp.asarray([-0.0, 0.0], dtype)}
        opt = eqxopt.Accumulate(eqxopt.AdamW(0.1), 3).init(params)
        for call in range(1, 7):
            new, new_opt = opt.apply(params, params)
            same = bits(new) == bits(params)
            same_inside = bits(new_opt.optimizer) == bits(opt.optimizer)
            assert same == same_inside == (call % 3 != 0)
            params, opt = new, new_opt
        assert (opt.count, opt.optimizer.count, opt.micro_steps) == (2, 2, 0)

    def test_uneven_weights(self, x64):
        """The gradient of the mean over all examples, whatever the micro-batches."""
        data = jax.random.normal(jax.random.key(0), (9, 2), float)
        grad = jax.grad(lambda w, x: jnp.mean(jnp.cos(x @ w)))
        params = jnp.asarray([0.5, -0.3])
        expected, _ = eqxopt.SGD(0.1).init(params).apply(grad(params, data), params)
        opt = eqxopt.Accumulate(eqxopt.SGD(0.1), 4).init(params)
        new = params
        for batch in (data[:5], data[5:6], data[6:6], data[6:]):
            # The mean of nothing is NaN, and its weight 0.
            new, opt = opt.weighted(len(batch)).apply(grad(params, batch), new)
        np.testing.assert_allclose(new, expected, rtol=1e-14)
        assert opt.weight == 1

    def test_weight_may_be_traced(self):
        params = jnp.ones(2)
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 2).init(params)
        apply = jax.jit(lambda opt, n, g, p: opt.weighted(n).apply(g, p))
        for n, g in [(jnp.asarray(3), 1.0), (jnp.asarray(1), 0.0)]:
            params, opt = apply(opt, n, jnp.full(2, g), params)
        np.testing.assert_allclose(params, 0.25)

    def test_bad_weights(self):
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 2)
        with pytest.raises(ValueError, match="`Accumulate` has no state"):
            opt.weighted(1.0)
        for bad in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="`weight` must be at least 0"):
                opt.init(jnp.ones(2)).weighted(bad)

    def test_a_nan_spoils_one_update_at_most(self):
        params = {"x": jnp.ones(2)}
        opt = eqxopt.Accumulate(eqxopt.SkipNonFinite(eqxopt.SGD(0.1)), 2).init(params)
        for g in (jnp.nan, 1.0, 1.0, 1.0):
            params, opt = opt.apply({"x": jnp.full(2, g)}, params)
        np.testing.assert_allclose(params["x"], 0.9)
        assert opt.optimizer.skipped == 1 and opt.dropped == 0

    def test_the_buffer_is_wider_than_the_gradients(self):
        params = jnp.zeros((), jnp.float32)
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 512).init(params)
        grads = jnp.full((512,), 1.0078125, jnp.bfloat16)
        body = lambda carry, g: (carry[1].apply(g, carry[0]), None)
        (params, _), _ = jax.lax.scan(body, (params, opt), grads)
        assert params == -1.0078125

    def test_finishing_early(self):
        params = jnp.ones(())
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 4).init(params)
        params, opt = opt.apply(jnp.asarray(0.2), params)
        params, opt = opt.replace(every=1).apply(jnp.asarray(0.4), params)
        assert params == pytest.approx(0.7) and opt.micro_steps == 0

    def test_mean_loss(self):
        params = jnp.asarray(2.0)
        opt = eqxopt.Accumulate(eqxopt.PolyakSGD(10.0), 2).init(params)
        for g, loss in [(1.0, 5.0), (3.0, 1.0)]:
            params, opt = opt.apply(jnp.asarray(g), params, value=loss)
        assert params == 2.0 - 3.0 / 2.0**2 * 2.0

    def test_the_update_is_computed_only_when_it_is_made(self):
        """As a branch of the program, also in a population."""
        opt = eqxopt.Accumulate(eqxopt.Adam(0.1), 3)

        def train(rate):
            params = jnp.ones(3)
            made = opt.replace(learning_rate=rate).init(params)
            return made.apply(params, params)[0]

        text = str(jax.make_jaxpr(jax.vmap(train))(jnp.asarray([0.1, 0.2])))
        assert " cond[" in text

    def test_every_is_one_number(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        opt = eqxopt.Accumulate(eqxopt.SGD(0.1), {"a": 1, "b": 2}).init(params)
        match = "`Accumulate.every` is one number for the whole model"
        with pytest.raises(TypeError, match=match):
            opt.apply(params, params)


class TestEMA:
    @pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
    def test_optax(self, decay, x64):
        params = nested_params(jnp.float64)
        average = optax.ema(decay, debias=True)
        state, update = average.init(params), in_optax(average.update)
        for opt, new in trained(eqxopt.EMA(eqxopt.Adam(0.1), decay), params):
            expected, state = update(new, state)
            assert_close(opt.eval_params(new), expected)

    def test_without_debias_it_starts_from_the_model(self, x64):
        params = expected = nested_params(jnp.float64)
        opt = eqxopt.EMA(eqxopt.Adam(0.1), 0.9, debias=False)
        assert_close(opt.init(params).eval_params(params), params)
        for opt, new in trained(opt, params):
            expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, expected, new)
            assert_close(opt.eval_params(new), expected)

    def test_training_stays_as_it_is(self):
        params = nested_params()
        plain = list(trained(eqxopt.AdamW(0.1), params))[-1][1]
        assert_close(
            list(trained(eqxopt.EMA(eqxopt.AdamW(0.1), 0.9), params))[-1][1], plain
        )

    def test_a_decay_near_one_in_float32(self):
        """The correction by 1 - decay**t would lose digits here."""
        params = {"x": jnp.asarray([1.0, 3.0])}
        opt = eqxopt.EMA(eqxopt.SGD(0.0), 0.99999).init(params)
        for _ in range(5):
            params, opt = opt.apply(params, params)
            np.testing.assert_allclose(opt.eval_params(params)["x"], [1, 3], rtol=1e-6)

    def test_averages_of_bfloat16_keep_digits(self):
        params = {"x": jnp.asarray([1.0, 2.0], jnp.bfloat16)}
        opt = eqxopt.EMA(eqxopt.SGD(0.1), 0.5).init(params)
        weights = []
        for _ in range(2):
            params, opt = opt.apply(params, params)
            weights.append(np.asarray(params["x"], np.float32))
        mean = opt.state["x"].mean
        assert mean.dtype == jnp.float32
        np.testing.assert_allclose(mean, (weights[0] + 2 * weights[1]) / 3, rtol=1e-6)
        assert opt.eval_params(params)["x"].dtype == jnp.bfloat16

    def test_a_moving_decay(self, x64):
        """Weights of the average add up to 1, also where the decay moves."""
        params = {"x": jnp.ones(2)}
        decay = eqxopt.schedules.Linear(0.0, 0.99, 10)
        opt = eqxopt.EMA(eqxopt.SGD(0.0), decay).init(params)
        for step in range(12):
            _, opt = opt.apply(params, params)
            np.testing.assert_allclose(opt.state["x"].mean, 1, rtol=1e-14)

    def test_a_decay_for_each_parameter(self):
        params = {"slow": jnp.ones(2), "fast": jnp.ones(2)}
        decay = lambda path, array: 0.9 if "slow" in path else 0.0
        opt = eqxopt.EMA(eqxopt.SGD(0.1), decay, debias=False).init(params)
        new, opt = opt.apply(params, params)
        np.testing.assert_allclose(opt.state["slow"].mean, 0.99)
        np.testing.assert_allclose(opt.state["fast"].mean, 0.9)

    def test_before_init(self):
        with pytest.raises(ValueError, match="`EMA` has no state"):
            eqxopt.EMA(eqxopt.SGD(0.1), 0.9).eval_params(jnp.ones(2))


@pytest.mark.parametrize("reset", [False, True])
def test_lookahead(reset, x64):
    ours = eqxopt.Lookahead(eqxopt.Adam(0.1), 4, 0.7, reset_state=reset)
    theirs = optax.lookahead(optax.adam(0.1), 4, 0.7, reset_state=reset)
    params = nested_params(jnp.float64)
    pair = optax.LookaheadParams.init_synced(params)
    state, update = theirs.init(pair), in_optax(theirs.update)
    expected = []
    for step in range(STEPS):
        _, grads = gradients_at(pair.fast, step)
        updates, state = update(grads, state, pair)
        pair = optax.apply_updates(pair, updates)
        expected.append(pair)
    for (opt, fast), pair in zip(trained(ours, params), expected, strict=True):
        assert_close(fast, pair.fast)
        assert_close(opt.eval_params(fast), pair.slow)
    assert opt.fast_steps == STEPS % 4


class TestSkipNonFinite:
    @pytest.mark.parametrize("spoilt", [(3, 4, 9, 20), (3, 4, 5)])
    def test_optax(self, spoilt, x64):
        ours = eqxopt.SkipNonFinite(eqxopt.Adam(0.1), max_consecutive=2)
        theirs = optax.apply_if_finite(optax.adam(0.1), 2)
        params = nested_params(jnp.float64)
        for (opt, our), (state, their) in zip(
            trained(ours, params, spoilt),
            trained_by_optax(theirs, params, spoilt),
            strict=True,
        ):
            np.testing.assert_equal(*[np.isnan(x["layers"][1]) for x in (our, their)])
            assert_close(*[jax.tree.map(jnp.nan_to_num, x) for x in (our, their)])
            assert opt.consecutive == state.notfinite_count
        # The third in a row is made, NaN and all, and so are those that follow.
        assert opt.skipped == (4 if len(spoilt) == 4 else 2)
        assert opt.count == STEPS
        finite = np.all(np.isfinite(np.asarray(our["layers"][1])))
        assert finite == (len(spoilt) == 4)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    @pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
    def test_skipped_to_the_bit(self, bad, dtype):
        params = nested_params(dtype) | {"zero": jnp.asarray([-0.0, 0.0], dtype)}
        opt = eqxopt.SkipNonFinite(eqxopt.AdamW(0.1)).init(params)
        params, opt = opt.apply(params, params)
        grads = params | {"scalar": jnp.asarray(bad, dtype)}
        for times in range(1, 4):
            new, new_opt = opt.apply(grads, params)
            assert bits(new) == bits(params)
            assert bits(new_opt.optimizer) == bits(opt.optimizer)
            params, opt = new, new_opt
            assert (opt.skipped, opt.consecutive) == (times, times)
        _, opt = opt.apply(params, params)
        assert (opt.skipped, opt.consecutive, opt.count) == (3, 0, 5)

    def test_a_loss_that_is_not_finite(self):
        params = jnp.ones(2)
        opt = eqxopt.SkipNonFinite(eqxopt.PolyakSGD()).init(params)
        new, opt = opt.apply(params, params, value=jnp.nan)
        assert bits(new) == bits(params) and opt.skipped == 1
        new, opt = opt.apply(params, params, value=1.0)
        np.testing.assert_allclose(new, 0.5)


class TestReduceOnPlateau:
    @pytest.mark.parametrize(
        "options",
        [
            {"factor": 0.5, "patience": 2},
            {"factor": 0.7, "patience": 1, "cooldown": 3, "min_scale": 0.2},
            {"factor": 0.5, "patience": 1, "rtol": 0.1, "accumulation_size": 3},
            {"factor": 0.5, "patience": 2, "rtol": 0.0, "atol": 0.5},
        ],
    )
    def test_optax(self, options, x64):
        ours = eqxopt.ReduceOnPlateau(eqxopt.Adam(0.3), **options)
        theirs = optax.chain(
            optax.adam(0.3), optax.contrib.reduce_on_plateau(**options)
        )
        params = nested_params(jnp.float64)
        for (opt, our), (state, their) in zip(
            trained(ours, params), trained_by_optax(theirs, params), strict=True
        ):
            assert_close(our, their)
            assert_close(opt.scale, state[1].scale)
            assert opt.cooldown_count == state[1].cooldown_count
        assert opt.scale < 1

    def test_needs_the_loss(self):
        opt = eqxopt.ReduceOnPlateau(eqxopt.SGD(0.1)).init(jnp.ones(2))
        with pytest.raises(ValueError, match="`ReduceOnPlateau` needs the loss"):
            opt.apply(jnp.ones(2), jnp.ones(2))


def test_cautious(x64):
    """A NumPy transcription, around Adam."""
    rng = np.random.default_rng(0)
    x = params = rng.normal(size=(4, 3))
    inner = eqxopt.Adam(0.1)
    inner, opt = inner.init(jnp.asarray(x)), eqxopt.Cautious(inner).init(jnp.asarray(x))
    for _ in range(STEPS):
        grad = rng.normal(size=x.shape)
        updates, inner = inner.update(jnp.asarray(grad), jnp.asarray(x))
        direction = -np.asarray(updates)
        mask = (direction * grad > 0).astype(float)
        x = x - mask * direction / max(mask.mean(), 1e-3)
        params, opt = opt.apply(jnp.asarray(grad), jnp.asarray(params))
        np.testing.assert_allclose(params, x, rtol=1e-12)


class TestCautious:
    def test_what_disagrees_keeps_its_bits(self):
        params = jnp.asarray([-0.0, 1.0, 2.0])
        opt = eqxopt.Cautious(eqxopt.SGD(0.1)).init(params)
        new, opt = opt.apply(jnp.asarray([0.0, 0.0, 1e-30]), params)
        assert bits(new[:2]) == bits(params[:2])

    def test_small_numbers_agree_too(self):
        """Their product would underflow."""
        params = jnp.zeros(2)
        opt = eqxopt.Cautious(eqxopt.SGD(1.0)).init(params)
        updates, _ = opt.update(jnp.full(2, 1e-25), params)
        np.testing.assert_allclose(updates, -1e-25)

    def test_nans_are_not_hidden(self):
        params = jnp.ones(2)
        opt = eqxopt.Cautious(eqxopt.SGD(1.0)).init(params)
        new, _ = opt.apply(jnp.asarray([jnp.nan, 1.0]), params)
        assert np.isnan(new[0])


MASK = {"scalar": False, "layers": True, "kernel": False}


class TestWeightDecay:
    @pytest.mark.parametrize("mask", [None, MASK])
    def test_times_learning_rate_is_adamw(self, mask, x64):
        rate = eqxopt.schedules.Linear(0.1, 0.01, 20)
        params = nested_params(jnp.float64)
        expected = trained(eqxopt.AdamW(rate, weight_decay=0.3, mask=mask), params)
        opt = eqxopt.DecoupledWeightDecay(eqxopt.Adam(rate), 0.3, mask)
        for (_, ours), (_, theirs) in zip(trained(opt, params), expected, strict=True):
            assert_close(ours, theirs, rtol=1e-12)

    @pytest.mark.parametrize("mask", [None, MASK])
    @pytest.mark.parametrize("convention", ["independent", "l2"])
    def test_optax(self, convention, mask, x64):
        params = nested_params(jnp.float64)
        if convention == "l2":
            theirs = [optax.add_decayed_weights(0.1, mask), optax.adam(0.1)]
        else:
            theirs = [optax.adam(0.1), optax.add_decayed_weights(-0.1, mask)]
        opt = eqxopt.DecoupledWeightDecay(
            eqxopt.Adam(0.1), 0.1, mask, convention=convention
        )
        for (_, our), (_, their) in zip(
            trained(opt, params), trained_by_optax(optax.chain(*theirs), params)
        ):
            assert_close(our, their)

    def test_the_rate_is_found_however_deep(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        zeros = jax.tree.map(jnp.zeros_like, params)
        inner = eqxopt.Chain(eqxopt.Monitor(eqxopt.SGD({"a": 0.1, "b": 0.2})))
        opt = eqxopt.DecoupledWeightDecay(inner, 0.5).init(params)
        new, _ = opt.apply(zeros, params)
        np.testing.assert_allclose(new["a"], 0.95)
        np.testing.assert_allclose(new["b"], 0.9)

    @pytest.mark.parametrize(
        "wrapper", [eqxopt.DecoupledWeightDecay, eqxopt.CautiousWeightDecay]
    )
    def test_no_rate_or_several(self, wrapper):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        labels = {"a": "one", "b": "two"}
        several = eqxopt.Partition(
            {"one": eqxopt.SGD(0.1), "two": eqxopt.Adam(0.1)}, labels
        )
        for inner, match in [
            (eqxopt.PolyakSGD(), "`PolyakSGD` has no learning rate"),
            (several, "`Partition` has several learning rates"),
        ]:
            with pytest.raises(ValueError, match=rf"`{wrapper.__name__}`: {match}"):
                wrapper(inner, 0.1).init(params)
            wrapper(inner, 0.1, convention="independent").init(params)

    def test_frozen_parameters_do_not_decay(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        inner = eqxopt.masked(eqxopt.SGD(0.1), {"a": True, "b": False})
        opt = eqxopt.DecoupledWeightDecay(inner, 0.1).init(params)
        new, _ = opt.apply(params, params)
        assert new["a"][0] < 1 and bits(new["b"]) == bits(params["b"])

    def test_unknown_convention(self):
        for make in (eqxopt.DecoupledWeightDecay, eqxopt.CautiousWeightDecay):
            with pytest.raises((TypeError, ValueError)):
                make(eqxopt.SGD(0.1), 0.1, convention="adamw")

    def test_cautious(self, x64):
        rng = np.random.default_rng(0)
        x = params = rng.normal(size=(4, 3))
        inner = eqxopt.Adam(0.1).init(jnp.asarray(x))
        opt = eqxopt.CautiousWeightDecay(eqxopt.Adam(0.1), 0.5).init(jnp.asarray(x))
        for _ in range(STEPS):
            grad = rng.normal(size=x.shape)
            updates, inner = inner.update(jnp.asarray(grad), jnp.asarray(x))
            direction = -np.asarray(updates) / 0.1
            x = x - 0.1 * (direction + 0.5 * (direction * x >= 0) * x)
            params, opt = opt.apply(jnp.asarray(grad), jnp.asarray(params))
            np.testing.assert_allclose(params, x, rtol=1e-12)


class TestMonitor:
    def test_norms(self, x64):
        params = nested_params(jnp.float64)
        opt = eqxopt.Monitor(
            eqxopt.Chain(eqxopt.ClipByGlobalNorm(0.1), eqxopt.SGD(1.0))
        )
        before = params
        for step, (opt, after) in enumerate(trained(opt, params)):
            _, grads = gradients_at(before, step)
            step_taken = jax.tree.map(lambda a, b: a - b, after, before)
            assert_close(opt.gradient_norm, optax.tree.norm(grads))
            assert_close(opt.update_norm, optax.tree.norm(step_taken))
            assert_close(opt.parameter_norm, optax.tree.norm(before))
            before = after

    def test_norms_of_float16(self):
        params = {"x": jnp.full((1000,), 100.0, jnp.float16)}
        opt = eqxopt.Monitor(eqxopt.SGD(0.1)).init(params)
        _, opt = opt.apply(params, params)
        assert opt.gradient_norm == pytest.approx(100 * 1000**0.5)

    def test_hyperparameters(self):
        opt = eqxopt.Monitor(eqxopt.SGD(0.1)).init(jnp.ones(2))
        assert list(opt.hyperparameters()) == ["SGD.learning_rate"]


def test_eval_params_reach_through():
    """A wrapper that keeps no average gives that of what it wraps."""
    params = jnp.ones(2)
    wrappers = [
        functools.partial(eqxopt.Accumulate, every=1),
        eqxopt.SkipNonFinite,
        eqxopt.ReduceOnPlateau,
        eqxopt.Cautious,
        functools.partial(eqxopt.DecoupledWeightDecay, weight_decay=0.0),
        functools.partial(eqxopt.CautiousWeightDecay, weight_decay=0.0),
        eqxopt.Monitor,
    ]
    for wrapper in wrappers:
        inner = eqxopt.EMA(eqxopt.SGD(0.1), 0.9, debias=False)
        opt = wrapper(inner).init(params)
        new, opt = opt.apply(jnp.ones(2), params, value=1.0)
        np.testing.assert_allclose(new, 0.9)
        np.testing.assert_allclose(opt.eval_params(new), 0.99)


def test_a_stack_of_wrappers():
    """Around one another, in the order that the documentation advises."""
    params = nested_params(jnp.bfloat16)
    inner = eqxopt.DecoupledWeightDecay(eqxopt.Cautious(eqxopt.Adam(0.1)), 0.1)
    stack = eqxopt.EMA(eqxopt.Monitor(inner), 0.9)
    opt = eqxopt.Accumulate(eqxopt.SkipNonFinite(stack), 2)
    for opt, params in trained(opt, params, spoilt=(4,)):
        pass
    assert opt.count == STEPS // 2 and opt.optimizer.skipped == 1
    assert opt.optimizer.optimizer.count == STEPS // 2 - 1
    assert all(np.all(np.isfinite(x.astype(float))) for x in jax.tree.leaves(params))
