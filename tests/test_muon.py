"""Muon: what a matrix is, the iterations, and the parts of the contract that concern
its fallback."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Model

import eqxopt
from eqxopt._fields.matrices import as_matrices, default_matrices
from eqxopt._math import divide, stable_norm
from eqxopt._matrices._newton_schulz import newton_schulz, POLAR_EXPRESS, STANDARD
from eqxopt._tree import Parameters


EXACT = eqxopt.NewtonSchulz("polar-express", steps=8)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, float)


def normalized(x):
    return divide(x, stable_norm(x, axes=(-2, -1)))


class Network(eqx.Module):
    embedding: eqx.nn.Embedding
    convolution: eqx.nn.Conv2d
    stack: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 3)
        self.embedding = eqx.nn.Embedding(5, 4, key=keys[0])
        self.convolution = eqx.nn.Conv2d(3, 6, 2, key=keys[1])
        make = lambda key: eqx.nn.Linear(4, 7, key=key)
        self.stack = eqx.filter_vmap(make)(jax.random.split(keys[2], 3))
        self.norm = eqx.nn.LayerNorm(4)


def shown(opt, model):
    """What `describe` shows: for each path, the cells by their heads."""
    head, *rows = (
        re.split(" {2,}", x) for x in eqxopt.describe(opt, model).split("\n")
    )
    return {row[0]: dict(zip(head, row)) for row in rows}


class Block(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        self.attention = eqx.nn.MultiheadAttention(
            2, 4, key_size=3, use_query_bias=True, key=key
        )
        self.norm = eqx.nn.LayerNorm((4, 4))


def blocks(count=None):
    """A block, or `count` of them with stacked weights."""
    key = jax.random.key(0)
    if count is None:
        return Block(key)
    return eqx.filter_vmap(Block)(jax.random.split(key, count))


def _ball(rate, **options):
    return eqxopt.Hyperball(eqxopt.SGD(rate), **options)


class TestMatrices:
    def views(self, choice, model=None):
        parameters = Parameters(Network() if model is None else model)
        views = as_matrices(choice).views(parameters, "`Muon.matrices`")
        return {
            path: view and (view.batch, view.rows, view.columns)
            for path, view in zip(parameters.paths, views)
        }

    def test_default(self):
        """Embeddings, biases, of which a convolution's has three axes, and norms are
        no matrices; nor are stacked biases. A convolution is flattened, and a stack is
        a batch."""
        views = self.views(default_matrices)
        assert views[".convolution.weight"] == (1, 6, 3 * 2 * 2)
        assert views[".stack.weight"] == (3, 7, 4)
        assert sum(view is not None for view in views.values()) == 2

    @pytest.mark.parametrize("count", [None, 3])
    def test_types_tell_stacks_and_norms(self, count):
        views = self.views(default_matrices, blocks(count))
        batch = count or 1
        attention = ".attention.{}_proj.weight"
        assert views[attention.format("key")] == (batch, 4, 3)
        assert views[attention.format("output")] == (batch, 4, 4)
        assert views[".norm.weight"] is views[".attention.query_proj.bias"] is None

    def test_types_tell_nested_stacks_convolutions_and_tables(self):
        keys = jax.random.split(jax.random.key(0), (2, 3))
        make = {
            "linear": lambda key: eqx.nn.Linear(4, 5, key=key),
            "convolution": lambda key: eqx.nn.Conv1d(2, 3, 4, key=key),
            "table": lambda key: eqx.nn.Embedding(5, 6, key=key),
            "norm": lambda key: eqx.nn.LayerNorm(7),
        }
        nested = lambda f: eqx.filter_vmap(eqx.filter_vmap(f))(keys)
        views = self.views(default_matrices, {k: nested(f) for k, f in make.items()})
        assert views["['linear'].weight"] == (6, 5, 4)
        assert views["['convolution'].weight"] == (6, 3, 8)
        assert views["['table'].weight"] is views["['norm'].weight"] is None

    def test_names_tell_biases(self):
        """Also those of a stack, and in a dictionary."""
        stack = lambda make: eqx.filter_vmap(make)(jax.random.split(jax.random.key(0)))
        model = {
            "cells": stack(lambda key: eqx.nn.GRUCell(3, 4, key=key)),
            "bias": jnp.ones((3, 4)),
            "in_bias": jnp.ones((3, 4)),
            "biased": {"weight": jnp.ones((3, 4))},
        }
        views = self.views(default_matrices, model)
        assert views["['cells'].weight_ih"] == (2, 12, 3)
        assert views["['biased']['weight']"] == (1, 3, 4)
        for name in ("['cells'].bias", "['cells'].bias_n", "['bias']", "['in_bias']"):
            assert views[name] is None

    def test_numpy_answers(self):
        views = self.views(
            lambda path, array: np.bool_(array.ndim == 2), {"x": random(2, 3)}
        )
        assert views["['x']"] == (1, 2, 3)

    def test_psgd_sees_the_same_stacks(self):
        opt = eqxopt.PSGDKron(0.1).init(blocks(3))
        assert opt.state.attention.key_proj.weight.left.shape == (3, 4, 4)
        assert opt.state.norm.weight.left.shape == (1, 1, 3)

    @pytest.mark.parametrize("count", [None, 3])
    def test_by_head(self, count):
        views = self.views(eqxopt.by_head, blocks(count))
        batch = count or 1
        for name, columns in {"query": 4, "key": 3, "value": 4}.items():
            expected = 2 * batch, 2, columns
            assert views[f".attention.{name}_proj.weight"] == expected
        assert views[".attention.output_proj.weight"] == (batch, 4, 4)

    def test_a_head_is_a_matrix_of_its_own(self, x64):
        """Its update is that of its rows alone, at the scale of its own shape."""
        params, grads = random(6, 4), random(6, 4, seed=1)
        for make in (eqxopt.Muon, eqxopt.NorMuon, eqxopt.Scion, eqxopt.SOAP):
            got, _ = make(0.1, matrices=3).init(params).update(grads, params)
            for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
                one = make(0.1).init(params[rows])
                expected, _ = one.update(grads[rows], params[rows])
                np.testing.assert_allclose(got[rows], expected, rtol=1e-10, atol=1e-12)

    def test_a_ball_for_each_head(self, x64):
        params, grads = random(6, 4), random(6, 4, seed=1)
        make = lambda **options: eqxopt.Hyperball(eqxopt.SGD(0.1), **options)
        got, _ = make(matrices=3).init(params).apply(grads, params)
        expected = [
            make().init(x).apply(g, x)[0]
            for x, g in zip(params.reshape(3, 2, 4), grads.reshape(3, 2, 4))
        ]
        np.testing.assert_allclose(got.reshape(3, 2, 4), jnp.stack(expected))

    @pytest.mark.parametrize(
        "stacked, heads, shape", [(0, 1, (4, 6)), (0, 3, (4, 6)), (1, 2, (2, 3, 4, 6))]
    )
    def test_a_kernel_is_a_transposed_matrix(self, stacked, heads, shape, x64):
        """Its update is that of (out, in, ...), with the axes moved."""
        turned = lambda x: jnp.moveaxis(x, -1, stacked)
        kernel = eqxopt.rules.Blocks(stacked, heads, transposed=True)
        matrix = eqxopt.rules.Blocks(stacked, heads)
        params, grads = random(*shape), random(*shape, seed=1)
        for make in (eqxopt.Muon, eqxopt.NorMuon, eqxopt.Scion, eqxopt.SOAP, _ball):
            got, expected = params, turned(params)
            opt = make(0.1, matrices=kernel).init(got)
            other = make(0.1, matrices=matrix).init(expected)
            for _ in range(2):
                got, opt = opt.apply(grads, got)
                expected, other = other.apply(turned(grads), expected)
            np.testing.assert_allclose(turned(got), expected, rtol=1e-9, atol=1e-11)

    def test_kernels_by_name(self):
        params = {"kernel": random(2, 8), "bias": random(8)}
        choice = lambda path, array: "kernel" if "kernel" in path else False
        opt = eqxopt.Muon(0.1, matrices=choice).init(params)
        assert shown(opt, params)["['kernel']"]["group"] == "kernel"
        update, _ = opt.update(params, params)
        expected, _ = (
            eqxopt.Muon(0.1)
            .init(params["kernel"].T)
            .update(params["kernel"].T, params["kernel"].T)
        )
        np.testing.assert_allclose(update["kernel"].T, expected, rtol=1e-5, atol=1e-6)

    def test_heads_must_divide_the_rows(self):
        with pytest.raises(ValueError, match="`Muon.matrices`, for the root, has .*: "):
            eqxopt.Muon(0.1, matrices=4).init(random(6, 4))

    def test_every_choice_can_ask_for_the_modules(self):
        """Of a parameter, from the model to its layer."""
        model = blocks()
        seen = {}

        def is_linear(path, array, modules):
            seen[path] = [type(module).__name__ for module in modules]
            return isinstance(modules[-1], eqx.nn.Linear)

        rate = lambda path, array, modules: 1.0 if len(modules) > 2 else 0.5
        opt = eqxopt.AdamW(rate, weight_decay=0.1, mask=is_linear)
        opt = eqxopt.masked(opt, is_linear).init(model)
        cells = shown(opt, model)
        assert seen[".attention.key_proj.weight"] == [
            "Block",
            "MultiheadAttention",
            "Linear",
        ]
        of = lambda path: [cells[path][x] for x in ("group", "rate", "decay")]
        assert of(".attention.key_proj.weight") == ["trained", "1", "0.1"]
        assert of(".norm.weight") == ["frozen", "frozen", "-"]
        lower = lambda path, array, modules: 2.0 if "Norm" in str(modules[-1]) else None
        bounded = eqxopt.LBFGS(lower=lower).init(model)
        assert bounded.lower.tree.norm.weight == 2.0
        assert bounded.lower.tree.attention.key_proj.weight is None

    def test_too_few_axes(self):
        for kind, path in ((True, ".norm.weight"), ("stack", ".stack.bias")):
            choice = lambda p, x: kind if p == path else False  # noqa: B023
            with pytest.raises(
                ValueError, match=rf"`Muon.matrices`, for \{path}, has shape"
            ):
                eqxopt.Muon(0.1, matrices=choice).init(Network())

    def test_unknown_kind(self):
        with pytest.raises(TypeError, match="'stack', 'kernel', a number of heads"):
            eqxopt.Muon(0.1, matrices={"a": "vector"})

    def test_tree_and_function_agree(self):
        params = {"a": random(3, 4), "b": random(4, 3)}
        by_tree = eqxopt.Muon(0.1, matrices={"a": True, "b": "fallback"})
        by_function = eqxopt.Muon(0.1, matrices=lambda path, x: "a" in path)
        for opt in (by_tree, by_function):
            opt = opt.init(params)
            assert opt.state["b"] is None and opt.fallback.state["a"] is None
            new, _ = opt.apply(params, params)
            assert not np.array_equal(new["b"], params["b"])

    def test_a_stack_is_its_matrices(self, x64):
        """And a stack of biases is left to the fallback."""
        stack = random(3, 5, 2)
        grads = random(3, 5, 2, seed=1)
        one = eqxopt.Muon(0.1).init(stack[0])
        many = eqxopt.Muon(0.1, matrices="stack").init(stack)
        expected = [one.apply(g, x)[0] for g, x in zip(grads, stack)]
        got, _ = many.apply(grads, stack)
        np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-12, atol=1e-12)

    def test_the_scale_is_that_of_outputs_first(self, x64):
        """A matrix of 4 outputs and 1 input would move by 2, its transpose by 1."""
        for shape, size in (((8, 2), 2.0), ((2, 8), 1.0)):
            x = random(*shape)
            opt = eqxopt.Muon(1.0, newton_schulz=EXACT)
            updates, _ = opt.init(x).update(x, x)
            np.testing.assert_allclose(
                np.linalg.svd(updates, compute_uv=False), size, rtol=1e-6
            )

    def test_consistent_rms(self, x64):
        x = random(8, 3)
        opt = eqxopt.Muon(1.0, newton_schulz=EXACT, consistent_rms=0.2)
        updates, _ = opt.init(x).update(x, x)
        assert np.sqrt(np.mean(updates**2)) == pytest.approx(0.2, rel=1e-6)

    def test_batches_give_what_each_alone_gives(self, x64):
        shapes = [(1, 3, 5), (1, 5, 3), (2, 3, 5), (1, 4, 4), (1, 3, 5), (1, 0, 2)]
        params = {i: random(*shape, seed=i) for i, shape in enumerate(shapes)}
        opt = eqxopt.Muon(0.1, matrices="stack")
        got, _ = opt.init(params).apply(params, params)
        for i, x in params.items():
            expected, _ = opt.init(x).apply(x, x)
            np.testing.assert_allclose(got[i], expected, rtol=1e-12, atol=1e-12)


class TestNewtonSchulz:
    @pytest.mark.parametrize("shape", [(4, 6, 6), (4, 6, 9), (4, 5, 40), (4, 40, 5)])
    @pytest.mark.parametrize(
        "coefficients, steps, low, high",
        [
            (STANDARD, 5, 0.6, 1.3),
            (POLAR_EXPRESS, 5, 0.75, 1.2),
            (POLAR_EXPRESS, 9, 1, 1),
        ],
    )
    def test_singular_values(self, shape, coefficients, steps, low, high, x64):
        """In the band that is known for five steps, where they were above 1e-2."""
        spread = np.geomspace(0.02, 1.0, min(shape[1:]))[None, None]
        u, _, v = np.linalg.svd(np.asarray(random(*shape)), full_matrices=False)
        x = normalized(jnp.asarray(u * spread @ v))
        for gram in (False, True):
            y = newton_schulz(x, coefficients, steps, gram=gram)
            values = np.linalg.svd(y, compute_uv=False)
            assert np.all(values >= low - 1e-6) and np.all(values <= high + 1e-6)

    @pytest.mark.parametrize("steps", [1, 2, 5, 7, 12])
    @pytest.mark.parametrize("coefficients", [STANDARD, POLAR_EXPRESS])
    def test_gram_is_standard(self, coefficients, steps, x64):
        x = normalized(random(3, 4, 16))
        standard = newton_schulz(x, coefficients, steps, gram=False)
        gram = newton_schulz(x, coefficients, steps, gram=True)
        np.testing.assert_allclose(gram, standard, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("float16", 0.05)])
    def test_gram_in_low_precision_of_a_singular_matrix(self, dtype, tolerance):
        x = jax.random.normal(jax.random.key(0), (2, 32, 4)) @ jax.random.normal(
            jax.random.key(1), (2, 4, 128)
        )
        x = normalized(x)
        expected = newton_schulz(x, STANDARD, 5, gram=False)
        got = newton_schulz(x.astype(dtype), STANDARD, 5, gram=True)
        np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=tolerance)

    def test_tiny_and_zero(self):
        """Squares that underflow do no harm, and 0 stays 0, also without eps."""
        for scale in (1e-30, 0.0):
            x = scale * jax.random.normal(jax.random.key(0), (4, 6))
            updates, _ = eqxopt.Muon(1.0, eps=0.0).init(x).update(x, x)
            largest = jnp.max(jnp.abs(updates))
            assert 0.1 < largest < 2 if scale else largest == 0

    def test_options(self):
        with pytest.raises(ValueError, match="'standard', 'polar-express'"):
            eqxopt.NewtonSchulz("best")
        with pytest.raises(ValueError, match="three numbers"):
            eqxopt.NewtonSchulz((1.0, 2.0))
        with pytest.raises(ValueError, match="`steps` must be an integer"):
            eqxopt.NewtonSchulz(steps=0)
        for optimizer in (eqxopt.Muon, eqxopt.NorMuon, eqxopt.Scion):
            with pytest.raises(TypeError, match="newton_schulz"):
                optimizer(0.1, newton_schulz="polar-express")


class TestFallback:
    def test_describe_shows_the_choice(self):
        model = Network()
        table = eqxopt.describe(eqxopt.Muon(0.5).init(model), model)
        groups = {row.split()[0]: row for row in table.splitlines()}
        assert " stack   0.5 " in groups[".stack.weight"]
        assert " matrix  0.5 " in groups[".convolution.weight"]
        assert " AdamW   0.0075 " in groups[".embedding.weight"]

    @pytest.mark.parametrize("fallback, share", [(None, 0.015), (eqxopt.AdamW, 1.0)])
    def test_a_schedule_reaches_the_fallback(self, fallback, share):
        rate = eqxopt.schedules.Linear(0.4, 0.0, 4)
        params = {"w": random(3, 4), "b": random(4)}
        opt = eqxopt.Muon(rate, fallback=fallback).init(params)
        for left in (0.4, 0.3, 0.2):
            cells = shown(opt, params)
            rates = [float(cells[f"['{name}']"]["rate"]) for name in "bw"]
            assert rates == pytest.approx([share * left, left])
            params, opt = opt.apply(params, params)

    def test_a_choice_reaches_the_fallback(self):
        params = {"w": random(3, 4), "a": random(4), "b": random(4)}
        by_function = lambda path, array: 0.2 if "a" in path else 0.4
        by_tree = {"w": 0.4, "a": eqxopt.schedules.Constant(0.2), "b": 0.4}
        for rate in (by_function, by_tree):
            opt = eqxopt.SOAP(rate).init(params)
            cells = shown(opt, params)
            rates = [cells[f"['{name}']"]["rate"] for name in "wab"]
            assert rates == ["0.4", "0.2", "0.4"]

    def test_consistent_rms_and_matrices_like_adams_give_it_the_whole_rate(self):
        for opt in (
            eqxopt.Muon(0.1, consistent_rms=0.2),
            eqxopt.NorMuon(0.1, consistent_rms=0.2),
            *(make(0.1) for make in (eqxopt.SOAP, eqxopt.Shampoo, eqxopt.KLShampoo)),
            *(make(0.1) for make in (eqxopt.GaLore, eqxopt.APOLLO, eqxopt.Scion)),
        ):
            assert float(opt.fallback.learning_rate) == pytest.approx(0.1)

    def test_a_fallback_must_be_an_optimizer(self):
        for wrong in (lambda rate: rate, 0.1):
            with pytest.raises(TypeError, match=r"`Muon.*an optimizer"):
                eqxopt.Muon(0.1, fallback=wrong)

    def test_describe_inside_a_partition(self):
        model = Model()
        opt = eqxopt.Partition(
            {"first": eqxopt.Muon(0.5), "rest": eqxopt.Freeze()},
            lambda path, x: "first" if "layers[0]" in path else "rest",
        ).init(model)
        table = eqxopt.describe(opt, model)
        assert "first.matrix" in table and "first.AdamW" in table and "rest" in table

    def test_hyperparameters_have_names(self):
        opt = eqxopt.Muon(0.1).init(Model())
        rate = float(opt.hyperparameters()["AdamW.learning_rate"])
        assert rate == pytest.approx(1.5e-3)
        opt = opt.replace(**{"AdamW.learning_rate": 0.5, "learning_rate": 0.2})
        assert float(opt.hyperparameters()["AdamW.learning_rate"]) == 0.5
        assert float(opt.learning_rate) == pytest.approx(0.2)

    def test_it_trains_alone_what_is_no_matrix(self):
        params = {"w": random(3, 4), "b": random(4)}
        inner = eqxopt.SGD(0.1, momentum=0.9)
        opt, alone = eqxopt.Muon(0.1, fallback=inner).init(params), inner.init(params)
        ours = theirs = params
        for _ in range(3):
            ours, opt = opt.apply(ours, ours)
            theirs, alone = alone.apply(theirs, theirs)
        np.testing.assert_allclose(ours["b"], theirs["b"], rtol=1e-6)

    def test_a_fallback_that_needs_the_loss(self):
        params = {"w": random(3, 4), "b": random(4)}
        opt = eqxopt.Muon(0.1, fallback=eqxopt.PolyakSGD()).init(params)
        opt.apply(params, params, value=1.0)
        with pytest.raises(ValueError, match="`PolyakSGD` needs the loss"):
            opt.apply(params, params)

    def test_the_fallback_is_evaluated_at_its_own_average(self):
        params = {"w": random(3, 4), "b": random(4)}
        opt = eqxopt.Muon(0.1, fallback=eqxopt.EMA(eqxopt.SGD(0.1), 0.5)).init(params)
        after, opt = opt.apply(params, params)
        after, opt = opt.apply(params, after)
        evaluated = opt.eval_params(after)
        np.testing.assert_array_equal(evaluated["w"], after["w"])
        assert not np.array_equal(evaluated["b"], after["b"])

    def test_gradients_of_its_hyperparameters_also_at_zero(self, x64):
        params = {"w": random(3, 4), "b": random(4), "still": jnp.ones((2, 2))}
        names = ["learning_rate", "beta", "AdamW.learning_rate", "AdamW.b1"]

        def final(values):
            opt = eqxopt.Muon(0.1, fallback=eqxopt.AdamW(0.1)).replace(**values)
            opt, new = opt.init(params), params
            for _ in range(3):
                grads = new | {"still": jnp.zeros((2, 2))}
                new, opt = opt.apply(grads, new)
            return sum(jnp.sum(x**2) for x in new.values())

        slopes = jax.grad(final)(dict.fromkeys(names, 0.1))
        assert all(np.isfinite(x) and x != 0 for x in slopes.values())

    def test_none_gradients_of_either(self):
        params = {"w": random(3, 4), "b": random(4), "v": random(3, 4), "c": random(4)}
        opt = eqxopt.Muon(0.1, weight_decay=0.1).init(params)
        params, opt = opt.apply(params, params)
        new, after = opt.apply(params | {"w": None, "b": None}, params)
        for name, state in (("w", opt.state), ("b", opt.fallback.state)):
            np.testing.assert_array_equal(new[name], params[name])
            changed = after.state if name == "w" else after.fallback.state
            assert eqx.tree_equal(changed[name], state[name])
        assert not np.array_equal(new["v"], params["v"])
        assert not np.array_equal(new["c"], params["c"])


def test_compute_dtype():
    """The steps in bfloat16 are near those in float32, and updates stay float32."""
    x = random(16, 24)
    exact, _ = eqxopt.Muon(1.0).init(x).update(x, x)
    steps = eqxopt.NewtonSchulz(method="standard", dtype=jnp.bfloat16)
    opt = eqxopt.Muon(1.0, newton_schulz=steps).init(x)
    rough, _ = opt.update(x, x)
    assert rough.dtype == jnp.float32
    assert 1e-6 < jnp.max(jnp.abs(rough - exact)) < 0.05


def test_choices_per_parameter_in_one_batch(x64):
    params = {"a": random(3, 5), "b": random(5, 3, seed=1)}
    by_path = lambda low, high: lambda path, x: low if "a" in path else high
    opt = eqxopt.Muon(by_path(0.1, 0.2), eps=by_path(0.5, 0.0)).init(params)
    got, _ = opt.apply(params, params)
    for name, rate, eps in (("a", 0.1, 0.5), ("b", 0.2, 0.0)):
        alone = eqxopt.Muon(rate, eps=eps).init(params[name])
        expected, _ = alone.apply(params[name], params[name])
        np.testing.assert_allclose(got[name], expected, rtol=1e-12, atol=1e-12)


def test_population():
    """`vmap` over the rates of both, with the count mapped too."""
    params = {"w": random(3, 5), "v": random(5, 3), "b": random(4)}

    def final(rate):
        opt = eqxopt.Muon(rate, fallback=eqxopt.AdamW(rate)).init(params)
        return opt.apply(params, params)

    rates = jnp.asarray([0.1, 0.2])
    models, opts = jax.vmap(final)(rates)
    models, opts = jax.vmap(lambda o, m: o.apply(m, m))(opts, models)
    for i, rate in enumerate(rates):
        model, opt = final(rate)
        model, _ = opt.apply(model, model)
        for name in params:
            np.testing.assert_allclose(models[name][i], model[name], rtol=1e-5)
