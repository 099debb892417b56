"""One update: the model is flattened once, whatever is wrapped around what."""

import jax
import jax.numpy as jnp
import pytest
from jax import tree_util as jtu

import eqxopt
from eqxopt import _tree
from eqxopt._abstract import step as steps


@jtu.register_pytree_node_class
class Counted:
    """A model that counts how often it is flattened."""

    flattened = 0

    def __init__(self, **arrays):
        self.arrays = arrays

    def tree_flatten(self):
        Counted.flattened += 1
        return tuple(self.arrays.values()), tuple(self.arrays)

    @classmethod
    def tree_unflatten(cls, names, values):
        new = object.__new__(cls)
        new.arrays = dict(zip(names, values))
        return new


def model():
    return Counted(weight=jnp.ones((3, 2)), bias=jnp.ones(3))


def five_storeys():
    """Every kind of composition around optimizers with and without state."""
    groups = eqxopt.Partition(
        {"matrices": eqxopt.Muon(0.1), "rest": eqxopt.EMA(eqxopt.AdamW(0.1), 0.9)},
        lambda path, array: "matrices" if array.ndim > 1 else "rest",
    )
    return eqxopt.SkipNonFinite(
        eqxopt.Accumulate(
            eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.Cautious(groups)), 2
        )
    )


def traced_update(opt, params):
    opt = opt.init(params)
    Counted.flattened = 0
    jax.eval_shape(lambda: opt.update(params, params, value=jnp.ones(())))
    return Counted.flattened


def test_a_model_is_flattened_once(monkeypatch):
    made = []
    parameters = _tree.Parameters.__init__
    monkeypatch.setattr(
        _tree.Parameters,
        "__init__",
        lambda self, *args, **options: (
            made.append(args),
            parameters(self, *args, **options),
        )[1],
    )
    opt, params = five_storeys().init(model()), model()
    made.clear()
    jax.eval_shape(lambda: opt.apply(params, params, value=jnp.ones(())))
    assert len(made) == 1


def test_storeys_flatten_only_states():
    """A storey without state takes nothing apart."""
    params = model()
    plain = traced_update(eqxopt.SGD(0.1), params)
    stack = eqxopt.Chain(
        eqxopt.ClipByGlobalNorm(1.0),
        eqxopt.Scale(2.0),
        eqxopt.Cautious(eqxopt.CautiousWeightDecay(eqxopt.SGD(0.1), 0.1)),
    )
    assert traced_update(stack, params) == plain


def test_gradients_are_checked_once(monkeypatch):
    checked = []
    check = steps._check_dtype
    monkeypatch.setattr(
        steps, "_check_dtype", lambda *args: (checked.append(args), check(*args))[1]
    )
    opt, params = five_storeys().init(model()), model()
    jax.eval_shape(lambda: opt.apply(params, params, value=jnp.ones(())))
    assert len(checked) == 2  # there are two parameters


@pytest.mark.parametrize("call", ["apply", "update"])
def test_mistakes_name_the_class_that_was_called(call):
    params = {"a": jnp.ones(3)}
    inside = eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.AdamW(0.1))
    opt = eqxopt.EMA(inside, 0.9).init(params)
    with pytest.raises(ValueError, match=r"`EMA`: the gradient at \['a'\] has shape"):
        getattr(opt, call)({"a": jnp.ones(2)}, params)
    with pytest.raises(ValueError, match="`EMA`: `value` must be a scalar"):
        getattr(opt, call)(params, params, value=jnp.ones(2))
    with pytest.raises(ValueError, match="`EMA` has no state: call `opt = opt.init"):
        getattr(eqxopt.EMA(inside, 0.9), call)(params, params)


def selections(model):
    """What chooses something for each parameter, in every form."""
    everywhere = jax.tree.map(lambda _: True, model)
    yield eqxopt.AdamW(0.1, mask=lambda path, array: array.ndim > 1)
    yield eqxopt.AdamW(0.1, mask=everywhere)
    yield eqxopt.SGD(lambda path, array: 0.1)
    yield eqxopt.Muon(0.1)
    yield eqxopt.masked(eqxopt.SGD(0.1), everywhere)


def test_setup_is_linear(monkeypatch):
    """Each path is made at most once for each flattened model."""
    params = [jnp.ones((2, 2)) for _ in range(50)]
    shown = []
    show = _tree.show_path
    monkeypatch.setattr(
        _tree, "show_path", lambda path: (shown.append(path), show(path))[1]
    )
    for opt in selections(params):
        shown.clear()
        opt = opt.init(params)
        assert len(shown) <= len(params)
        shown.clear()
        jax.eval_shape(lambda: opt.apply(params, params))
        assert len(shown) <= len(params)
        shown.clear()
        eqxopt.describe(opt, params)
        assert len(shown) <= 2 * len(params)
