"""`make_step` and `fit`: the same numbers as the loop a user would write."""

import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_loops
from problems import Model
from training_loops import arrays

import eqxopt


X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jax.random.normal(jax.random.key(1), (12, 2))


def loss_fn(model, x, y):
    return jnp.mean(jnp.square(jax.vmap(model)(x) - y))


def started(opt=None):
    model = Model()
    return model, (eqxopt.AdamW(0.05) if opt is None else opt).init(model)


def assert_close(got, expected):
    training_loops.assert_close(arrays(got), arrays(expected), rtol=1e-5, atol=1e-6)


def assert_equal(got, expected):
    training_loops.assert_equal(arrays(got), arrays(expected))


@eqx.filter_jit
def plain_step(model, opt, x, y):
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y)
    return *opt.apply(grads, model, value=loss), loss


def plain_loop(steps, batches=lambda i: (X, Y), opt=None):
    model, opt = started(opt)
    losses = []
    for i in range(steps):
        model, opt, loss = plain_step(model, opt, *batches(i))
        losses.append(float(loss))
    return model, opt, losses


class TestMakeStep:
    def test_equals_the_plain_loop(self):
        step = eqxopt.make_step(loss_fn)
        model, opt = started()
        losses = []
        for _ in range(4):
            model, opt, loss = step(model, opt, X, Y)
            losses.append(float(loss))
        expected = plain_loop(4)
        assert type(model) is Model and model.name == "model" and model.steps == 3
        assert_close((model, opt), expected[:2])
        np.testing.assert_allclose(losses, expected[2], rtol=1e-5)

    def test_traces_once(self):
        traces = 0

        def counted(model, x, y):
            nonlocal traces
            traces += 1
            return loss_fn(model, x, y)

        step = eqxopt.make_step(counted)
        model, opt = started()
        for rate in (0.1, 0.2, 0.3):
            opt = opt.replace(learning_rate=rate)  # another object every time
            model, opt, _ = step(model, opt, X, Y)
            model, opt, _ = step(model, opt, X, Y)
        assert traces == 1

    def test_a_changed_model_is_seen(self):
        """What was given out is remembered, but not mistaken for something else."""
        step = eqxopt.make_step(loss_fn, donate=False)
        model, opt = started()
        one, opt_one, _ = step(model, opt, X, Y)
        zeroed = eqx.tree_at(lambda m: m.scale, one, jnp.zeros(()))
        _, _, loss = step(zeroed, opt_one, X, Y)
        np.testing.assert_allclose(loss, jnp.mean(jnp.square(Y)), rtol=1e-6)
        again, _, _ = step(one, opt_one, X, Y)
        expected, _, _ = plain_step(one, opt_one, X, Y)
        assert_close(again, expected)

    def test_mutable_models_are_flattened_anew(self):
        step = eqxopt.make_step(lambda p, x: jnp.sum(p["w"] * x), donate=False)
        params = {"w": jnp.ones(2)}
        opt = eqxopt.SGD(0.1).init(params)
        params, opt, _ = step(params, opt, jnp.ones(2))
        params["w"] = jnp.zeros(2)
        _, _, loss = step(params, opt, jnp.ones(2))
        assert loss == 0

    def test_donated_model(self):
        step = eqxopt.make_step(loss_fn)
        model, opt = started()
        step(model, opt, X, Y)
        with pytest.raises(ValueError, match="donated to an earlier step.*donate=Fal"):
            step(model, opt, X, Y)

    def test_without_donation(self):
        step = eqxopt.make_step(loss_fn, donate=False)
        model, opt = started()
        assert_equal(step(model, opt, X, Y), step(model, opt, X, Y))

    def test_an_error_in_the_loss_is_its_own(self):
        def wrong(model, x, y):
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            eqxopt.make_step(wrong)(*started(), X, Y)

    def test_aux(self):
        step = eqxopt.make_step(
            lambda m, x, y: (loss_fn(m, x, y), {"rows": x.shape[0], "y": y}),
            has_aux=True,
        )
        *_, loss, aux = step(*started(), X, Y)
        assert int(aux["rows"]) == 12
        np.testing.assert_array_equal(aux["y"], Y)
        assert loss.shape == ()

    def test_static_arguments(self):
        step = eqxopt.make_step(lambda m, x, y, f: f(loss_fn(m, x, y)))
        *_, loss = step(*started(), X, Y, jnp.negative)
        assert loss < 0

    def test_loss_that_is_no_scalar(self):
        with pytest.raises(ValueError, match=r"must give a scalar.*\(12,\)"):
            eqxopt.make_step(lambda m, x, y: jax.vmap(m)(x)[:, 0])(*started(), X, Y)

    def test_optimizers_that_need_the_loss(self):
        step = eqxopt.make_step(loss_fn)
        model, opt, loss = step(*started(eqxopt.PolyakSGD()), X, Y)
        expected = plain_loop(1, opt=eqxopt.PolyakSGD())
        assert_close((model, opt), expected[:2])

    def test_complex_parameters_go_downhill(self):
        z = jnp.asarray([1 + 2j, -0.5j], jnp.complex64)
        step = eqxopt.make_step(lambda z: jnp.sum(jnp.square(jnp.abs(z))))
        opt = eqxopt.SGD(0.1).init(z)
        for _ in range(20):
            z, opt, loss = step(z, opt)
        assert loss < 1e-2

    @pytest.mark.parametrize("parts", [2, 3, 12])
    def test_microbatches(self, parts):
        model, opt, loss = eqxopt.make_step(loss_fn, microbatches=parts)(
            *started(), X, Y
        )
        expected = plain_loop(1)
        assert_close((model, opt), expected[:2])
        np.testing.assert_allclose(loss, expected[2][0], rtol=1e-5)

    def test_microbatches_in_half_precision_add_up_in_single(self):
        params = jnp.zeros((), jnp.float16)
        step = eqxopt.make_step(lambda p, x: jnp.mean(p * x), microbatches=4)
        x = jnp.asarray([6e4, 6e4, 6e4, 6e4], jnp.float16)  # the sum overflows
        new, _, _ = step(params, eqxopt.SGD(0.5).init(params), x)
        np.testing.assert_allclose(new, -3e4, rtol=1e-3)

    def test_microbatches_that_do_not_fit(self):
        step = eqxopt.make_step(loss_fn, microbatches=5)
        with pytest.raises(ValueError, match="12 rows, which do not split into 5"):
            step(*started(), X, Y)
        with pytest.raises(ValueError, match="microbatches=0"):
            eqxopt.make_step(loss_fn, microbatches=0)
        with pytest.raises(ValueError, match="`fit`: microbatches=0"):
            eqxopt.fit(loss_fn, *started(), [(X, Y)], microbatches=0)

    @pytest.mark.parametrize("data", [(X, Y), [(X, Y)]])
    def test_microbatches_of_fit(self, data):
        """With means of what else the loss function gives, also of integers."""
        noted = lambda *args: (
            loss_fn(*args),
            {"first": (args[1][0, 0] > 0).astype(int)},
        )
        options = {"batch_size": 12} if isinstance(data, tuple) else {}
        model, opt, history = eqxopt.fit(
            noted, *started(), data, microbatches=3, has_aux=True, **options
        )
        assert_close((model, opt), plain_loop(1)[:2])
        np.testing.assert_allclose(history.loss, loss_fn(Model(), X, Y), rtol=1e-5)
        np.testing.assert_allclose(history.aux["first"], np.mean(X[::4, 0] > 0))


def batch(i):
    rows = np.arange(4 * i, 4 * i + 4) % 12
    return np.asarray(X)[rows], np.asarray(Y)[rows]


class TestFit:
    @pytest.mark.parametrize("steps_per_call", [1, 3, 7, 50])
    def test_equals_the_plain_loop(self, steps_per_call):
        model, opt, history = eqxopt.fit(
            loss_fn,
            *started(),
            (batch(i) for i in range(7)),
            steps_per_call=steps_per_call,
        )
        expected = plain_loop(7, batch)
        assert_close((model, opt), expected[:2])
        np.testing.assert_allclose(history.loss, expected[2], rtol=1e-5)
        np.testing.assert_array_equal(history.step, np.arange(7))

    def test_the_callers_model_stays(self):
        model, opt = started()
        eqxopt.fit(loss_fn, model, opt, [(X, Y)] * 3)
        assert_equal((model, opt), started())

    def test_batches_of_other_shapes(self):
        batches = [(X[:5], Y[:5]), (X[:5], Y[:5]), (X[:2], Y[:2]), (X[:5], Y[:5])]
        model, opt, history = eqxopt.fit(loss_fn, *started(), batches)
        expected = plain_loop(4, lambda i: batches[i])
        assert_close((model, opt), expected[:2])
        assert history.loss.shape == (4,)

    def test_one_program_for_all_chunks(self):
        traces = 0

        def counted(model, x, y):
            nonlocal traces
            traces += 1
            return loss_fn(model, x, y)

        eqxopt.fit(counted, *started(), [(X, Y)] * 10, steps_per_call=4)
        assert traces == 1

    def test_steps_limit_an_endless_iterable(self):
        endless = iter(lambda: (X, Y), None)
        *_, history = eqxopt.fit(
            loss_fn, *started(), endless, steps=5, steps_per_call=2
        )
        assert len(history.loss) == 5

    def test_batch_that_is_no_tuple(self):
        fn = lambda model, batch: loss_fn(model, batch["x"], batch["y"])
        model, _, _ = eqxopt.fit(fn, *started(), [{"x": X, "y": Y}] * 2)
        assert_close(model, plain_loop(2)[0])

    def test_data_in_memory(self):
        """Every row once an epoch, in another order every time."""
        rows = jnp.arange(12.0)
        params = jnp.zeros(())
        opt = eqxopt.SGD(0.0).init(params)
        seen = []

        def loss(p, x):
            jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
            return jnp.sum(x) + 0 * p

        eqxopt.fit(
            loss, params, opt, (rows,), batch_size=4, key=jax.random.key(0), steps=6
        )
        jax.effects_barrier()
        one, two = np.concatenate(seen[:3]), np.concatenate(seen[3:])
        np.testing.assert_array_equal(np.sort(one), rows)
        np.testing.assert_array_equal(np.sort(two), rows)
        assert not np.array_equal(one, two)

    @pytest.mark.parametrize("steps_per_call", [2, 5])
    def test_resumed_to_the_bits(self, steps_per_call):
        options = {"batch_size": 5, "key": jax.random.key(3)}
        options["steps_per_call"] = steps_per_call
        whole = eqxopt.fit(loss_fn, *started(), (X, Y), steps=11, **options)
        first = eqxopt.fit(loss_fn, *started(), (X, Y), steps=4, **options)
        second = eqxopt.fit(loss_fn, *first[:2], (X, Y), steps=7, **options)
        assert_equal(second[:2], whole[:2])
        losses = np.concatenate([first[2].loss, second[2].loss])
        np.testing.assert_array_equal(losses, whole[2].loss)
        np.testing.assert_array_equal(second[2].step, np.arange(4, 11))

    def test_callback_stops(self):
        lengths = []

        def callback(model, opt, history):
            lengths.append(len(history.loss))
            assert int(opt.count) == len(history.loss)
            return len(lengths) == 2

        model, opt, history = eqxopt.fit(
            loss_fn, *started(), [(X, Y)] * 9, steps_per_call=3, callback=callback
        )
        assert lengths == [3, 6] and len(history.loss) == 6
        assert_close(model, plain_loop(6)[0])

    def test_a_model_kept_by_the_callback_lives(self):
        kept = []
        eqxopt.fit(
            loss_fn,
            *started(),
            [(X, Y)] * 6,
            steps_per_call=2,
            callback=lambda model, opt, history: kept.append(model),
        )
        for model, steps in zip(kept, (2, 4, 6), strict=True):
            assert_close(model, plain_loop(steps)[0])

    def test_interrupt(self):
        def batches():
            for i in range(100):
                if i == 5:
                    os.kill(os.getpid(), signal.SIGINT)
                yield X, Y

        before = signal.getsignal(signal.SIGINT)
        model, opt, history = eqxopt.fit(
            loss_fn, *started(), batches(), steps_per_call=3
        )
        assert len(history.loss) == int(opt.count) == 6
        assert_close(model, plain_loop(6)[0])
        assert signal.getsignal(signal.SIGINT) is before

    def test_loss_function_with_arrays(self):
        class Loss(eqx.Module):
            scale: jax.Array

            def __call__(self, model, x, y):
                return self.scale * loss_fn(model, x, y)

        model, _, _ = eqxopt.fit(Loss(jnp.ones(())), *started(), [(X, Y)] * 2)
        assert_close(model, plain_loop(2)[0])

    def test_no_batches(self):
        model, opt = started()
        new, _, history = eqxopt.fit(loss_fn, model, opt, [])
        assert_equal(new, model)
        assert history.loss.shape == (0,)

    def test_bad_options(self):
        model, opt = started()
        with pytest.raises(ValueError, match="needs a `key`"):
            eqxopt.fit(loss_fn, model, opt, (X, Y), batch_size=4)
        with pytest.raises(ValueError, match="1 to its 12 rows"):
            eqxopt.fit(
                loss_fn, model, opt, (X, Y), batch_size=13, key=jax.random.key(0)
            )
        with pytest.raises(ValueError, match=r"at \[1\] has shape \(11, 2\)"):
            eqxopt.fit(
                loss_fn, model, opt, (X, Y[1:]), batch_size=4, key=jax.random.key(0)
            )
        with pytest.raises(ValueError, match="steps_per_call=0"):
            eqxopt.fit(loss_fn, model, opt, [], steps_per_call=0)
        with pytest.raises(ValueError, match="`AdamW` has no state"):
            eqxopt.fit(loss_fn, model, eqxopt.AdamW(0.1), [])


def test_population():
    """One model for each rate in one program, with the plain loop's numbers."""

    def final(rate):
        model = Model()
        opt = eqxopt.SGD(rate).init(model)
        for _ in range(3):
            _, grads = eqx.filter_value_and_grad(loss_fn)(model, X, Y)
            model, opt = opt.apply(grads, model)
        return loss_fn(model, X, Y)

    rates = jnp.asarray([0.01, 0.1])
    np.testing.assert_allclose(
        jax.vmap(final)(rates), [final(rate) for rate in rates], rtol=1e-5
    )


@pytest.mark.parametrize("make", [eqxopt.AdamW, eqxopt.ScheduleFreeSGD, eqxopt.Muon])
def test_a_population_is_mapped_over(make):
    """Its methods say so, and change nothing."""
    rates = jnp.asarray([0.01, 0.1])
    params = {"w": jnp.ones((2, 3, 2))}
    opts = jax.vmap(lambda rate, p: make(rate).init(p))(rates, params)
    of_two = r"shape \(2,\), so it is a population. Map over it"
    for call, method in (
        (lambda: opts.apply(params, params), "apply"),
        (lambda: opts.update(params, params), "update"),
        (lambda: opts.eval_params(params), "eval_params"),
        (lambda: opts.replace(learning_rate=rates), "replace"),
        (lambda: opts.replace(learning_rate=0.1), "replace"),
        (lambda: opts.with_state(opts.state), "with_state"),
    ):
        with pytest.raises(ValueError, match=rf"`{make.__name__}.{method}`.*{of_two}"):
            call()
    with pytest.raises(ValueError, match="Describe one of it"):
        eqxopt.describe(opts, params)
    assert opts.hyperparameters()["learning_rate"].shape == (2,)
    changed = jax.vmap(lambda opt, x: opt.replace(learning_rate=x))(opts, 2 * rates)
    np.testing.assert_allclose(changed.hyperparameters()["learning_rate"], 2 * rates)
