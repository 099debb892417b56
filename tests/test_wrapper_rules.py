"""What each wrapper does. Where optax has a counterpart, the numbers are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import nested_params
from training_loops import (
    assert_close,
    bits,
    gradients_at,
    in_optax,
    STEPS,
    trained,
    trained_by_optax,
)

import eqxopt


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
            steps.init, lambda g, s, p, **_: steps.update(g, s, p)
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
    def test_nothing_changes_between_updates(self, dtype):
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
        """The update is that of the mean over all examples."""
        data = jax.random.normal(jax.random.key(0), (9, 2), float)
        grad = jax.grad(lambda w, x: jnp.mean(jnp.cos(x @ w)))
        params = jnp.asarray([0.5, -0.3])
        expected, _ = eqxopt.SGD(0.1).init(params).apply(grad(params, data), params)
        opt = eqxopt.Accumulate(eqxopt.SGD(0.1), 4).init(params)
        new = params
        for batch in (data[:5], data[5:6], data[6:6], data[6:]):
            # The empty micro-batch has the gradient NaN and the weight 0.
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

    def test_a_number_may_be_a_weight_where_a_program_is_traced(self):
        params = jnp.ones(2)
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 2).init(params)
        apply = jax.jit(lambda opt, g, p: opt.weighted(len(g)).apply(g, p))
        params, opt = apply(opt, jnp.ones(2), params)
        assert opt.total_weight == 2
        with pytest.raises(ValueError, match=r"must lie in \[0, inf\)"):
            jax.jit(lambda opt: opt.weighted(-1))(opt)

    def test_losses_end_with_their_update(self):
        """Also where the last call is given none."""
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 2).init(jnp.ones(2))
        for value in (5.0, None):
            _, opt = opt.apply(jnp.ones(2), jnp.ones(2), value=value)
        assert opt.count == 1 and opt.total_value == 0

    def test_bad_weights(self):
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 2)
        with pytest.raises(ValueError, match="`Accumulate` has no state"):
            opt.weighted(1.0)
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=r"`weight` must lie in \[0, inf\)"):
                opt.init(jnp.ones(2)).weighted(bad)

    def test_nan_spoils_at_most_one_update(self):
        params = {"x": jnp.ones(2)}
        opt = eqxopt.Accumulate(eqxopt.SkipNonFinite(eqxopt.SGD(0.1)), 2).init(params)
        for g in (jnp.nan, 1.0, 1.0, 1.0):
            params, opt = opt.apply({"x": jnp.full(2, g)}, params)
        np.testing.assert_allclose(params["x"], 0.9)
        assert opt.optimizer.skipped == 1 and opt.dropped == 0

    def test_sums_are_wider_than_the_gradients(self):
        params = jnp.zeros((), jnp.float32)
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), 512).init(params)
        grads = jnp.full((512,), 1.0078125, jnp.bfloat16)
        body = lambda carry, g: (carry[1].apply(g, carry[0]), None)
        (params, _), _ = jax.lax.scan(body, (params, opt), grads)
        assert params == -1.0078125

    def test_update_with_fewer_micro_batches(self):
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

    def test_updates_are_computed_only_when_due(self):
        """They are a branch of the program, also under `vmap`."""
        opt = eqxopt.Accumulate(eqxopt.Adam(0.1), 3)

        def train(rate):
            params = jnp.ones(3)
            fresh = opt.replace(learning_rate=rate).init(params)
            return fresh.apply(params, params)[0]

        text = str(jax.make_jaxpr(jax.vmap(train))(jnp.asarray([0.1, 0.2])))
        assert " cond[" in text

    def test_every_must_be_one_number(self):
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

    def test_training_does_not_change(self):
        params = nested_params()
        plain = list(trained(eqxopt.AdamW(0.1), params))[-1][1]
        assert_close(
            list(trained(eqxopt.EMA(eqxopt.AdamW(0.1), 0.9), params))[-1][1], plain
        )

    def test_a_decay_near_one_in_float32(self):
        """Dividing by 1 - decay**t would lose digits here."""
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

    def test_scheduled_decay(self, x64):
        """The weights of the average add up to 1 while the decay changes."""
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
        # The third bad step in a row is made, with its NaN, and so are all later ones.
        assert opt.skipped == (4 if len(spoilt) == 4 else 2)
        assert opt.count == STEPS
        finite = np.all(np.isfinite(np.asarray(our["layers"][1])))
        assert finite == (len(spoilt) == 4)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    @pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
    def test_a_skipped_step_changes_no_bit(self, bad, dtype):
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

    def test_loss_is_not_finite(self):
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


def test_eval_params_of_the_wrapped_optimizer():
    """A wrapper without an average returns that of the wrapped optimizer."""
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
    """Wrappers work in the order that the documentation recommends."""
    params = nested_params(jnp.bfloat16)
    inner = eqxopt.DecoupledWeightDecay(eqxopt.Cautious(eqxopt.Adam(0.1)), 0.1)
    stack = eqxopt.EMA(eqxopt.Monitor(inner), 0.9)
    opt = eqxopt.Accumulate(eqxopt.SkipNonFinite(stack), 2)
    for opt, params in trained(opt, params, spoilt=(4,)):
        pass
    assert opt.count == STEPS // 2 and opt.optimizer.skipped == 1
    assert opt.optimizer.optimizer.count == STEPS // 2 - 1
    assert all(np.all(np.isfinite(x.astype(float))) for x in jax.tree.leaves(params))
