"""Chains, groups, nested hyperparameters and the table of `describe`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Model, nested_loss, nested_params

import eqxopt


def grads_of(model):
    return jax.tree.map(jnp.sin, eqx.filter(model, eqx.is_inexact_array))


class TestChain:
    def test_indexing_and_repr(self):
        opt = eqxopt.Chain(eqxopt.SGD(0.1), eqxopt.Chain(eqxopt.Adam(0.2)))
        assert opt[0] is opt["SGD"] and isinstance(opt["Chain"], eqxopt.Chain)
        assert "SGD" in repr(opt) and "Adam" in repr(opt)
        with pytest.raises(KeyError, match="`Chain` has no `Lion`; it has SGD, Chain"):
            opt["Lion"]

    def test_same_class_twice(self):
        opt = eqxopt.Chain(eqxopt.SGD(0.1), eqxopt.SGD(0.2))
        assert float(opt["SGD[1]"].learning_rate) == pytest.approx(0.2)
        new = opt.replace(**{"SGD[1].learning_rate": 0.3})
        assert float(new[1].learning_rate) == pytest.approx(0.3)
        assert eqx.tree_equal(new[0], opt[0])

    def test_needs_an_optimizer(self):
        with pytest.raises(ValueError, match=r"`Chain\(\)` has no optimizer"):
            eqxopt.Chain()
        with pytest.raises(TypeError, match="is not a transform|transforms"):
            eqxopt.Chain(optax.sgd(0.1))  # pyright: ignore

    def test_nested_chain_is_flat_chain(self):
        model = Model()
        parts = eqxopt.SGD(0.5), eqxopt.SGD(-0.0 + 0.3), eqxopt.Adam(0.1)
        nested = eqxopt.Chain(parts[0], eqxopt.Chain(*parts[1:])).init(model)
        flat = eqxopt.Chain(*parts).init(model)
        one, two = model, model
        for _ in range(3):
            one, nested = nested.apply(grads_of(one), one)
            two, flat = flat.apply(grads_of(two), two)
        assert eqx.tree_equal(one, two)

    def test_before_init(self):
        with pytest.raises(ValueError, match="`Chain` has no state: call"):
            eqxopt.Chain(eqxopt.SGD(0.1)).apply({}, {})


class TestNestedHyperparameters:
    def test_names(self):
        opt = eqxopt.Partition(
            {"a": eqxopt.SGD(0.1), "b": eqxopt.Chain(eqxopt.SGD(0.2, momentum=0.5))},
            lambda path, array: "a",
        )
        names = set(opt.hyperparameters())
        assert names == {
            "a.learning_rate",
            "b.SGD.learning_rate",
            "b.SGD.momentum",
        }

    def test_a_name_that_one_has(self):
        opt = eqxopt.Chain(eqxopt.Chain(eqxopt.Adam(0.1)))
        new = opt.replace(learning_rate=0.2, b1=0.5)
        assert float(new.hyperparameters()["Chain.Adam.b1"]) == 0.5
        assert float(opt.hyperparameters()["Chain.Adam.b1"]) == pytest.approx(0.9)

    def test_labels_with_dots(self):
        opt = eqxopt.Partition({"a.b": eqxopt.SGD(0.1), "b": eqxopt.SGD(0.1)}, {})
        new = opt.replace(**{"a.b.learning_rate": 0.5})
        rates = {k: float(x) for k, x in new.hyperparameters().items()}
        assert rates == {"a.b.learning_rate": 0.5, "b.learning_rate": np.float32(0.1)}

    def test_a_name_that_several_have(self):
        opt = eqxopt.Partition({"a": eqxopt.SGD(0.1), "b": eqxopt.SGD(0.1)}, {})
        match = "several `learning_rate`; it has .*`a.learning_rate`"
        with pytest.raises(TypeError, match=match):
            opt.replace(learning_rate=0.2)

    def test_a_name_that_none_has(self):
        match = "`Chain` has no field `lr`; it has `SGD.learning_rate`"
        with pytest.raises(TypeError, match=match):
            eqxopt.Chain(eqxopt.SGD(0.1)).replace(lr=0.2)

    def test_range(self):
        with pytest.raises(ValueError, match=r"`Adam\(b1=1.0\)`"):
            eqxopt.Chain(eqxopt.Adam(0.1)).replace(b1=1.0)


def groups():
    return eqxopt.Partition(
        {"matrices": eqxopt.AdamW(0.1), "rest": eqxopt.SGD(0.2, momentum=0.9)},
        lambda path, array: "matrices" if array.ndim > 1 else "rest",
    )


class TestPartition:
    def test_optax_parity(self, x64):
        params = nested_params(jnp.float64)
        ours, opt = params, groups().init(params)
        labels = jax.tree.map(lambda x: "matrices" if x.ndim > 1 else "rest", params)
        tx = optax.multi_transform(
            {"matrices": optax.adamw(0.1), "rest": optax.sgd(0.2, momentum=0.9)}, labels
        )
        theirs, state = params, tx.init(params)
        for i in range(10):
            ours, opt = opt.apply(jax.grad(nested_loss)(ours, float(i)), ours)
            grads = jax.grad(nested_loss)(theirs, float(i))
            with jax.numpy_dtype_promotion("standard"):
                updates, state = tx.update(grads, state, theirs)
                theirs = optax.apply_updates(theirs, updates)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
            np.testing.assert_allclose(a, b, rtol=1e-10)

    def test_labels_as_a_prefix_tree(self):
        params = nested_params()
        labels = {"scalar": "rest", "layers": "matrices", "kernel": "matrices"}
        opt = eqxopt.Partition(groups().optimizers, labels).init(params)
        assert opt.optimizers["matrices"].state["scalar"] is None
        assert opt.optimizers["matrices"].state["layers"][0].mu.shape == (3,)

    def test_unlabelled_parameter(self):
        opt = eqxopt.Partition({"a": eqxopt.SGD(0.1)}, {"x": "a"})
        with pytest.raises(ValueError, match=r"`Partition.labels` has no entry.*'y'"):
            opt.init({"x": jnp.ones(2), "y": jnp.ones(2)})

    def test_unknown_label(self):
        opt = eqxopt.Partition({"a": eqxopt.SGD(0.1)}, {"x": "b"})
        match = r"`Partition`: \['x'\] has the label 'b'.*there are 'a'"
        with pytest.raises(ValueError, match=match):
            opt.init({"x": jnp.ones(2)})

    def test_label_that_is_no_string(self):
        opt = eqxopt.Partition({"a": eqxopt.SGD(0.1)}, lambda path, array: 1)
        with pytest.raises(
            TypeError, match=r"`Partition.labels`, for \['x'\], must be"
        ):
            opt.init({"x": jnp.ones(2)})

    def test_not_an_optimizer(self):
        with pytest.raises(TypeError, match=r"give `eqxopt.Freeze\(\)`"):
            eqxopt.Partition({"a": None}, {})  # pyright: ignore

    def test_frozen_parameters(self):
        """No state, no decay, bit-identical, whatever the gradient."""
        model = Model()
        opt = eqxopt.masked(
            eqxopt.AdamW(0.1, weight_decay=1.0), lambda path, x: "layers[1]" in path
        ).init(model)
        new, opt = opt.apply(grads_of(model), model)
        assert eqx.tree_equal(new.layers[0], model.layers[0])
        assert not eqx.tree_equal(new.layers[1], model.layers[1])
        kept = jax.tree.leaves(opt.optimizers["trained"].state)
        assert {x.shape for x in kept} == {(2, 4), (2,)}
        assert not jax.tree.leaves(opt.optimizers["frozen"].state)

    def test_value_fn_of_a_group_is_of_the_whole(self):
        params = {"a": jnp.ones(()), "b": 2 * jnp.ones(())}
        opt = eqxopt.Partition(
            {"a": eqxopt.PolyakSGD(10.0), "b": eqxopt.Freeze()}, {"a": "a", "b": "b"}
        ).init(params)
        value, grads = jax.value_and_grad(lambda p: p["a"] * p["b"])(params)
        new, _ = opt.apply(grads, params, value=value)
        assert float(new["a"]) == 0.0 and float(new["b"]) == 2.0


class TestDescribe:
    def test_table(self):
        model = Model()
        table = eqxopt.describe(groups().init(model), model)
        lines = table.splitlines()
        head = ["path", "shape", "dtype", "group", "rate", "decay", "state"]
        assert lines[0].split() == head
        weight = next(x for x in lines if x.startswith(".layers[0].weight"))
        assert weight.split() == (
            ".layers[0].weight (4, 3) float32 matrices 0.1 0.0001 96 B".split()
        )
        assert lines[-1].split()[:2] == ["total", "27"]

    def test_bare_array_and_choice_of_rates(self):
        params = jnp.ones((2, 2))
        opt = eqxopt.Adam(lambda path, array: 0.25).init(params)
        line = eqxopt.describe(opt, params).splitlines()[1]
        assert line.split() == "the root (2, 2) float32 0.25 32 B".split()

    def test_choices_inside_groups(self):
        """A group's optimizer has choices for its own parameters only."""
        params = {"w": jnp.ones((2, 2)), "b": jnp.ones(3)}
        opt = eqxopt.Partition(
            {
                "a": eqxopt.SGD(lambda path, array: 0.25),
                "b": eqxopt.Adam({"b": eqxopt.schedules.Constant(0.5), "w": 0.1}),
            },
            lambda path, array: "a" if array.ndim > 1 else "b",
        ).init(params)
        lines = eqxopt.describe(opt, params).splitlines()
        assert lines[1].split() == "['b'] (3,) float32 b 0.5 24 B".split()
        assert lines[2].split() == "['w'] (2, 2) float32 a 0.25 0 B".split()
        opt = eqxopt.Muon(0.5, fallback=eqxopt.AdamW(lambda path, array: 0.25))
        wrapped = eqxopt.Chain(eqxopt.ClipByNorm(1.0), eqxopt.EMA(opt, 0.9))
        lines = eqxopt.describe(wrapped.init(params), params).splitlines()
        assert lines[1].split()[-5:-2] == ["AdamW", "0.25", "0.0001"]
        assert lines[2].split()[-5:-2] == ["matrix", "0.5", "-"]

    def test_decays_of_several_and_what_is_frozen(self):
        params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "still": jnp.ones(2)}
        decayed = eqxopt.AddDecayedWeights(0.1, mask=lambda path, x: x.ndim > 1)
        opt = eqxopt.Chain(decayed, eqxopt.AdamW(0.5, weight_decay=0.2))
        opt = eqxopt.masked(opt, lambda path, x: "still" not in path).init(params)
        lines = [line.split() for line in eqxopt.describe(opt, params).splitlines()]
        cells = {line[0][2:-2]: line[3:] for line in lines[1:-1]}
        assert cells["still"][:3] == ["frozen", "frozen", "-"]
        assert cells["b"][:3] == ["trained", "0.5", "0.2"]
        assert cells["w"][:4] == ["float32", "trained", "0.5", "0.1"]
        assert cells["w"][4:6] == ["+", "0.2"]

    @pytest.mark.parametrize("model", [{}, (), None, {"a": 3}, 2.5, [jnp.tanh, "a"]])
    def test_a_model_without_parameters(self, model):
        inner = eqxopt.SGD(0.1)
        for opt in (
            inner,
            eqxopt.Muon(0.1),
            eqxopt.ScheduleFreeSGD(0.1),
            eqxopt.ScheduleFreeAdamW(0.1),
            eqxopt.ScheduleFree(inner),
            eqxopt.EMA(inner, 0.9),
            eqxopt.Lookahead(inner, 2),
            eqxopt.masked(inner, True),
        ):
            opt = opt.init(model)
            for _ in range(2):
                assert eqxopt.describe(opt, model).split()[-1] == "B"
                assert opt.eval_params(model) == model
                grads = jax.tree.map(lambda x: None, model)
                new, opt = opt.apply(grads, model)
                assert new == model
