"""`make_step` and `fit` with states, random keys and named scalars."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_loops import arrays, assert_close, assert_equal

import eqxopt


X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jax.random.normal(jax.random.key(1), (12, 2))
KEY = jax.random.key(2)


class Network(eqx.Module):
    """Linear, batch normalization, dropout, linear."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key):
        first, last = jax.random.split(key)
        self.first = eqx.nn.Linear(3, 4, key=first)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.last = eqx.nn.Linear(4, 2, key=last)

    def __call__(self, x, state, key):
        x, state = self.norm(self.first(x), state)
        return self.last(self.dropout(jax.nn.relu(x), key=key)), state


def loss_fn(model, state, x, y, key):
    keys = jax.random.split(key, len(x))
    axes = {"axis_name": "batch", "in_axes": (0, None, 0), "out_axes": (0, None)}
    outputs, state = jax.vmap(model, **axes)(x, state, keys)
    loss = jnp.mean(jnp.square(outputs - y))
    return loss, state, {"error": jnp.sqrt(loss), "rows": jnp.asarray(len(x))}


@pytest.fixture
def started():
    model, state = eqx.nn.make_with_state(Network)(jax.random.key(3))
    return model, eqxopt.AdamW(0.05).init(model), state


def plain_loop(model, opt, state, steps, batch=lambda i: (X, Y)):
    """The loop that a user would write."""

    @eqx.filter_jit
    def step(model, opt, state, x, y, key):
        def with_aux(model):
            loss, new_state, aux = loss_fn(model, state, x, y, key)
            return loss, (new_state, aux)

        (loss, (new_state, aux)), grads = eqx.filter_value_and_grad(
            with_aux, has_aux=True
        )(model)
        return *opt.apply(grads, model), new_state, loss, aux

    losses, errors = [], []
    for i in range(steps):
        key = jax.random.fold_in(KEY, i)
        model, opt, state, loss, aux = step(model, opt, state, *batch(i), key)
        losses.append(loss)
        errors.append(aux["error"])
    return model, opt, state, losses, errors


def check(got, expected):
    assert_close(arrays(got), arrays(expected), rtol=1e-5, atol=1e-6)


class TestStates:
    def test_make_step(self, started):
        model, opt, state = started
        step = eqxopt.make_step(loss_fn, has_aux=True)
        expected = plain_loop(*started, steps=3)
        for i in range(3):
            model, opt, state, loss, aux = step(model, opt, X, Y, state=state, key=KEY)
            np.testing.assert_allclose(loss, expected[3][i], rtol=1e-5)
            np.testing.assert_allclose(aux["error"], expected[4][i], rtol=1e-5)
        check((model, opt, state), expected[:3])

    def test_fit(self, started):
        model, opt, state = started
        model, opt, state, history = eqxopt.fit(
            loss_fn, model, opt, [(X, Y)] * 3, state=state, key=KEY, has_aux=True
        )
        expected = plain_loop(*started, steps=3)
        check((model, opt, state), expected[:3])
        np.testing.assert_allclose(history.loss, expected[3], rtol=1e-5)
        np.testing.assert_allclose(history.aux["error"], expected[4], rtol=1e-5)
        np.testing.assert_array_equal(history.aux["rows"], 12)

    def test_from_one_microbatch_to_the_next(self, started):
        model, opt, state = started

        def counted(model, state, x):
            return jnp.mean(x) * jnp.sum(model), state + jnp.sum(x)

        model = jnp.ones(())
        opt = eqxopt.SGD(0.0).init(model)
        step = eqxopt.make_step(counted, microbatches=3)
        *_, state, loss = step(model, opt, jnp.arange(6.0), state=jnp.zeros(()))
        assert state == 15 and loss == 2.5

    def test_batch_norm_in_microbatches(self, started):
        """The running averages are those of the parts one after the other."""
        model, opt, state = started
        step = eqxopt.make_step(loss_fn, has_aux=True, microbatches=2, donate=False)
        *_, got, loss, aux = step(model, opt, X, Y, state=state, key=KEY)
        expected = state
        for i in range(2):
            rows = slice(6 * i, 6 * i + 6)
            _, expected, _ = loss_fn(model, expected, X[rows], Y[rows], KEY)
        check(got, expected)
        assert aux["error"].shape == (2,)

    def test_optimizers_that_call_the_loss_again(self, started):
        """A state can be read once, and the loss is called several times."""
        model, _, state = started
        opt = eqxopt.SAM(eqxopt.SGD(0.1), rho=0.05).init(model)
        step = eqxopt.make_step(loss_fn, has_aux=True)
        model, opt, state, loss, aux = step(model, opt, X, Y, state=state, key=KEY)
        assert jnp.isfinite(loss)

    def test_any_pytree_is_a_state(self):
        def moving(x, state, target):
            return (x - target) ** 2, {"last": target, "count": state["count"] + 1}

        x = jnp.zeros(())
        opt = eqxopt.SGD(0.1).init(x)
        state = {"last": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}
        _, _, state, _ = eqxopt.fit(
            moving, x, opt, [jnp.asarray(2.0), jnp.asarray(3.0)], state=state
        )
        assert state["last"] == 3 and state["count"] == 2

    def test_a_state_that_changes_its_shape_is_named(self):
        x = jnp.zeros(())
        opt = eqxopt.SGD(0.1).init(x)
        step = eqxopt.make_step(lambda x, s: (x**2, {"n": jnp.zeros(2)}))
        with pytest.raises(ValueError, match=r"\['n'\]: from float32\[\] to .*\[2\]"):
            step(x, opt, state={"n": jnp.zeros(())})
        step = eqxopt.make_step(lambda x, s: (x**2, None))
        with pytest.raises(ValueError, match="state of the structure"):
            step(x, opt, state={"n": jnp.zeros(())})

    def test_a_number_in_a_state_cannot_change(self):
        """Only arrays go from step to step."""
        x = jnp.zeros(())
        opt = eqxopt.SGD(0.1).init(x)
        state = {"epoch": 0, "name": "a"}
        step = eqxopt.make_step(lambda x, s: (x**2, s | {"epoch": s["epoch"] + 1}))
        with pytest.raises(ValueError, match=r"\['epoch'\], which is 0 and no array"):
            step(x, opt, state=state)
        step = eqxopt.make_step(lambda x, s: (x**2, dict(s)))
        assert step(x, opt, state=state)[2] == state

    def test_aux_of_other_names(self, started):
        """What a step did not give is NaN."""

        def loss_fn(x, batch):
            name = "a" if "x" in batch else "b"
            return x**2, {name: jnp.asarray(3), "both": x}

        x = jnp.zeros(())
        ones, twos = [{"x": jnp.ones(())}] * 3, [{"y": jnp.ones(())}] * 2
        *_, history = eqxopt.fit(
            loss_fn, x, eqxopt.SGD(0.1).init(x), ones + twos, has_aux=True
        )
        nan = np.nan
        np.testing.assert_array_equal(history.aux["a"], [3, 3, 3, nan, nan])
        np.testing.assert_array_equal(history.aux["b"], [nan, nan, nan, 3, 3])
        np.testing.assert_array_equal(history.aux["both"], np.zeros(5))

    def test_a_state_in_the_batch_is_named(self, started):
        model, opt, state = started
        step = eqxopt.make_step(loss_fn, has_aux=True)
        with pytest.raises(TypeError, match="give it as `state=state`"):
            step(model, opt, state, X, Y, key=KEY)


def drawn(x, key):
    """A loss whose gradient is a random number."""
    return x * jax.random.normal(key)


class TestKeys:
    def test_each_step_has_its_own(self):
        x = jnp.zeros(())
        opt = eqxopt.SGD(1.0).init(x)
        new, opt_new, _ = eqxopt.fit(drawn, x, opt, steps=3, key=KEY)
        draws = [jax.random.normal(jax.random.fold_in(KEY, i)) for i in range(3)]
        np.testing.assert_allclose(new, -np.sum(draws), rtol=1e-6)
        step = eqxopt.make_step(drawn)
        for _ in range(3):
            x, opt, _ = step(x, opt, key=KEY)
        assert_equal(arrays((x, opt)), arrays((new, opt_new)))

    def test_each_microbatch_has_its_own(self):
        step = eqxopt.make_step(
            lambda x, batch, key: (x * batch[0], jax.random.normal(key)),
            has_aux=True,
            microbatches=4,
        )
        x = jnp.zeros(())
        *_, draws = step(x, eqxopt.SGD(1.0).init(x), jnp.ones(4), key=KEY)
        assert len(np.unique(draws)) == 4

    def test_each_call_of_an_accumulator_has_its_own(self):
        x = jnp.zeros(())
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), every=2).init(x)
        noted = lambda x, key: (x, {"draw": jax.random.normal(key)})
        *_, history = eqxopt.fit(noted, x, opt, steps=4, key=KEY, has_aux=True)
        assert len(np.unique(history.aux["draw"])) == 4
        np.testing.assert_array_equal(history.step, np.arange(4))

    def test_raw_keys(self):
        x = jnp.zeros(())
        opt = eqxopt.SGD(1.0).init(x)
        options = {"batch_size": 2, "key": jax.random.PRNGKey(0)}
        eqxopt.fit(lambda x, y: x * y[0], x, opt, jnp.ones(4), **options)

    def test_a_missing_and_a_stray_key_are_named(self):
        x = jnp.zeros(())
        opt = eqxopt.SGD(1.0).init(x)
        with pytest.raises(TypeError, match="missing .* 'key'. Give `key=`"):
            eqxopt.fit(drawn, x, opt, steps=3)
        with pytest.raises(ValueError, match="nothing uses the `key`"):
            eqxopt.fit(lambda x, y: x * y, x, opt, [x, x], key=KEY)
        with pytest.raises(TypeError, match=r"takes `\(x\)`.*'key'"):
            eqxopt.make_step(lambda x: x)(x, opt, key=KEY)


class TestLossFunctions:
    """The errors say which form the loss function should have."""

    @pytest.mark.parametrize(
        "loss, options, message",
        [
            (lambda x: (x, {}), {}, "the loss alone, not a tuple of 2. With `has_aux"),
            (lambda x: x, {"has_aux": True}, r"give \(loss, aux\), not one value"),
            (lambda x, s: x, {"state": 0.0}, r"give \(loss, state\), not one value"),
            (lambda x: None, {}, "must give a scalar, but gave a `NoneType`"),
            (lambda x: jnp.ones(3) * x, {}, r"must give a scalar.*\(3,\)"),
            (lambda x, y: x, {}, r"takes `\(x, y\)`, but is called with `model`, none"),
            (lambda x: (x, x), {"has_aux": True}, "a dictionary of named scalars"),
            (
                lambda x: (x, {"a": jnp.ones(2)}),
                {"has_aux": True},
                r"`aux\['a'\]` must be a scalar array, but has shape \(2,\)",
            ),
        ],
    )
    def test_another_form(self, loss, options, message):
        x = jnp.zeros(())
        with pytest.raises((TypeError, ValueError), match=message):
            eqxopt.fit(loss, x, eqxopt.SGD(1.0).init(x), steps=1, **options)

    def test_keywords_are_no_part_of_the_batch(self):
        weighted = lambda x, y, *, weights: x * jnp.sum(y) * jnp.sum(weights)
        x = jnp.ones(())
        opt = eqxopt.SGD(0.1).init(x)
        step = eqxopt.make_step(weighted, microbatches=4, donate=False)
        *_, loss = step(x, opt, jnp.ones(8), weights=jnp.arange(4.0))
        assert loss == 2 * 6
        with pytest.raises(ValueError, match=r"8 rows at \[0\], but 4 at \[1\]"):
            step(x, opt, jnp.ones(8), jnp.arange(4.0))

    def test_a_model_without_parameters(self):
        model = {"slope": 1.0}
        opt = eqxopt.SGD(0.1).init(model)
        loss = lambda model, x: model["slope"] * x
        for train in (
            lambda: eqxopt.fit(loss, model, opt, [jnp.ones(())]),
            lambda: eqxopt.make_step(loss)(model, opt, jnp.ones(())),
        ):
            with pytest.raises(ValueError, match="no parameters.*`jnp.asarray`"):
                train()

    def test_no_optimizer(self):
        x = jnp.zeros(())
        with pytest.raises(TypeError, match="needs an optimizer.*not None"):
            eqxopt.fit(lambda x: x, x, None, steps=1)
        with pytest.raises(TypeError, match="needs an optimizer.*not <class"):
            eqxopt.make_step(lambda x: x)(x, eqxopt.SGD)


class TestTransformed:
    def test_a_step_inside_a_transformation(self):
        step = eqxopt.make_step(lambda x: x**2)

        def trained(rate):
            x = jnp.ones(())
            opt = eqxopt.SGD(rate).init(x)
            for _ in range(2):
                x, opt, _ = step(x, opt)
            return x

        rates = jnp.asarray([0.1, 0.25])
        np.testing.assert_allclose(jax.vmap(trained)(rates), [0.64, 0.25], rtol=1e-6)
        np.testing.assert_allclose(jax.jit(trained)(0.25), 0.25, rtol=1e-6)

    def test_fit_says_that_it_cannot(self):
        def trained(rate):
            x = jnp.ones(())
            return eqxopt.fit(lambda x: x**2, x, eqxopt.SGD(rate).init(x), steps=2)[0]

        with pytest.raises(TypeError, match="`fit` compiles a loop of its own"):
            jax.vmap(trained)(jnp.ones(2))
