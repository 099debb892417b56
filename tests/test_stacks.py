"""States of small parameters that share arrays: what a user sees is the same."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import each, OPTIMIZERS, OWN_OPTIMIZERS, WRAPPERS
from problems import CURVED
from training_loops import arrays, assert_close, assert_equal, bits, scanned, step

import eqxopt


CASES = OPTIMIZERS | OWN_OPTIMIZERS | WRAPPERS


def made(name):
    return CASES[name].make(*["AdamW"] * (name in WRAPPERS))


SHAPES = [(3,), (2, 3), (3,), (), (3,), (2, 3), (5, 1)]


def many_params(seed=0):
    """Three vectors and two matrices share stacks, the others are alone."""
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return [jax.random.normal(key, shape, float) for key, shape in zip(keys, SHAPES)]


class Net(eqx.Module):
    layers: list[eqx.nn.Linear]
    head: eqx.nn.Linear

    def __init__(self, depth=4, width=3, head=1):
        keys = jax.random.split(jax.random.key(0), depth + 1)
        self.layers = [eqx.nn.Linear(width, width, key=key) for key in keys[:-1]]
        self.head = eqx.nn.Linear(width, head, key=keys[-1])


def trained(opt, model, steps=2):
    for i in range(steps):
        grads = jax.tree.map(
            lambda x: jnp.sin(x + i), eqx.filter(model, eqx.is_inexact_array)
        )
        model, opt = opt.apply(grads, model, **CURVED)
    return model, opt


@pytest.mark.parametrize("name", each(CASES))
def test_the_same_numbers(name, x64):
    """As with arrays of its own for each parameter, also if some have no gradient."""
    params = many_params()
    pattern = [None if i in (0, 1) else g for i, g in enumerate(many_params(2))]
    both = []
    for in_stacks in (True, False):
        opt = made(name).init(params, in_stacks=in_stacks)
        after, opt = params, opt
        for grads in (many_params(1), pattern, many_params(3)):
            after, opt = step(opt, after, grads)
        both.append((after, opt.state, opt.eval_params(after)))
    assert_close(*both, 1e-12)


def test_few_arrays():
    model = Net(depth=30)
    opt = eqxopt.AdamW(0.1).init(model)
    assert len(jax.tree.leaves(opt.state)) == 2 * 62
    # Two moments of all weights, of all biases, and of the head's two.
    assert len(jax.tree.leaves(opt.kept)) == 2 * 4
    alone = eqxopt.AdamW(0.1).init(model, in_stacks=False)
    assert len(jax.tree.leaves(alone.kept)) == 2 * 62
    assert_equal(opt.state, alone.state)


def test_large_arrays_stay_alone():
    params = [jnp.ones((64, 64)), jnp.ones((64, 64)), jnp.ones(4097), jnp.ones(4097)]
    kept = eqxopt.Lion(0.1).init(params).kept
    shapes = sorted(x.shape for x in jax.tree.leaves(kept))
    assert shapes == [(2, 64, 64), (4097,), (4097,)]


def test_choices_for_each_parameter():
    """Rates, decays and masks that differ within a stack."""
    model = Net()
    falling = eqxopt.schedules.Linear(1.0, 0.0, 5)
    rates = lambda path, array: 0.1 if "[2]" in path else falling
    make = lambda: eqxopt.AdamW(rates, mask=lambda path, array: "[0]" not in path)
    parts = {"a": make(), "b": eqxopt.SGD(0.1, momentum=0.9)}
    for opt in (make(), eqxopt.Partition(parts, labels)):
        stacked, alone = (
            trained(opt.init(model, in_stacks=on), model) for on in (True, False)
        )
        assert_close(arrays(stacked[0]), arrays(alone[0]), 1e-6)
        assert eqxopt.describe(stacked[1], model) == eqxopt.describe(alone[1], model)
        assert repr(stacked[1]) == repr(alone[1])


def labels(path, array):
    return "b" if "[1]" in path else "a"


def test_options_changed_after_init():
    """Parameters of one stack that a new mask treats in two ways."""
    model = Net()
    both = []
    for on in (True, False):
        opt = eqxopt.AdamW(0.1, weight_decay=0.5).init(model, in_stacks=on)
        opt = opt.replace(mask=lambda path, array: "[0]" in path)
        both.append(arrays(trained(opt, model)[0]))
    assert_close(*both, 1e-6)


def test_a_population():
    """Under `vmap` a state has the population's axis in front, as before."""
    params = many_params()
    start = jax.vmap(lambda rate: eqxopt.AdamW(rate).init(params))
    population = start(jnp.array([0.1, 0.2]))
    assert population.state[0].mu.shape == (2, 3)
    assert population.state[1].mu.shape == (2, 2, 3)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    after, population = jax.vmap(lambda opt, p: opt.apply(p, p))(population, many)
    alone, opt = step(eqxopt.AdamW(0.2).init(params), *2 * [[2 * p for p in params]])
    second = jax.tree.map(lambda x: x[1], (after, population.state))
    assert_close(second, (alone, opt.state), 1e-6)


def test_a_scan_and_a_loop():
    params = many_params()
    opt = eqxopt.Adam(0.1).init(params)
    grads = [many_params(seed) for seed in (1, 2)]
    looped = params, opt
    for g in grads:
        looped = step(looped[1], looped[0], g)
    assert_close(scanned(opt, params, grads), looped, 1e-6)


def test_shapes_without_values():
    model = Net()
    opt = eqxopt.Adam(0.1).init(model)
    shapes = eqx.filter_eval_shape(eqxopt.Adam(0.1).init, model)
    assert shapes.state.layers[1].bias.nu.shape == (3,)
    for read in (jax.device_get(opt), jax.tree.map(jnp.copy, opt)):
        assert_equal(read.state, opt.state)
    assert jax.tree.map(lambda _: True, opt).state.layers[0].weight.mu is True
    assert eqx.filter(opt, lambda x: False).state.layers[0].weight.mu is None


def test_pickled_and_copied():
    model, opt = trained(eqxopt.Adam(0.1).init(Net()), Net())
    for other in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert hash(other.kept.layout) == hash(opt.kept.layout)
        assert bits(trained(other, model)) == bits(trained(opt, model))


def test_with_state_starts_a_layer_again():
    model, opt = trained(eqxopt.Adam(0.1).init(Net()), Net())
    fresh = opt.init(model).state.layers[1]
    where = lambda state: state.layers[1]
    new = opt.with_state(eqx.tree_at(where, opt.state, fresh))
    assert_equal(new.state.layers[1], fresh)
    assert_equal(new.state.layers[0], opt.state.layers[0])
    assert_equal(new.state.head, opt.state.head)
    assert new.count == opt.count == 2
    assert jax.tree.structure(new) == jax.tree.structure(opt)
    # Nobody's memory is shared: both may be donated.
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((opt, new, fresh))]
    assert len(set(pointers)) == len(pointers)


def test_with_state_on_a_model_with_another_head():
    model, opt = trained(eqxopt.Adam(0.1).init(Net()), Net())
    other = eqxopt.Adam(0.1).init(Net(head=2))
    where = lambda state: state.layers
    new = other.with_state(eqx.tree_at(where, other.state, opt.state.layers))
    assert_equal(new.state.layers, opt.state.layers)
    assert new.state.head.weight.mu.shape == (2, 3)


def test_with_state_of_one_alone_and_of_none():
    params = {"w": jnp.ones(3)}
    opt = eqxopt.Adam(0.1).init(params)
    state = jax.tree.map(lambda x: x + 1, opt.state)
    assert_equal(opt.with_state(state).state, state)
    assert eqxopt.SGD(0.1).init(params).with_state(()).state == ()


def test_with_state_names_what_does_not_fit():
    opt = eqxopt.Adam(0.1).init(Net())
    change = lambda new: eqx.tree_at(
        lambda state: state.layers[1].bias.mu, opt.state, new
    )
    with pytest.raises(ValueError, match=r"state\.layers\[1\]\.bias\.mu.*\(3,\)"):
        opt.with_state(change(jnp.zeros(4)))
    with pytest.raises(ValueError, match=r"state\.layers\[1\]\.bias\.mu.*float32"):
        opt.with_state(change(jnp.zeros(3, jnp.bfloat16)))
    with pytest.raises(ValueError, match=r"state\.layers\[1\].* is missing"):
        opt.with_state(
            eqx.tree_at(lambda s: s.layers[1], opt.state, None, is_leaf=lambda x: False)
        )
    with pytest.raises(ValueError, match=r"`state\['more'\]` is not in the state"):
        params = {"w": jnp.ones(2)}
        small = eqxopt.Adam(0.1).init(params)
        small.with_state(small.state | {"more": jnp.ones(2)})
    with pytest.raises(ValueError, match="no state: call"):
        eqxopt.Adam(0.1).with_state(opt.state)


def test_changing_what_is_made_when_it_is_read():
    opt = eqxopt.Adam(0.1).init(Net())
    with pytest.raises(TypeError, match="with_state"):
        eqx.tree_at(lambda opt: opt.state.layers[1].bias.mu, opt, jnp.zeros(3))


@pytest.mark.parametrize("saved, loaded", [(True, False), (False, True)])
def test_saved_one_way_and_loaded_the_other(saved, loaded, tmp_path):
    make = lambda: eqxopt.EMA(eqxopt.Adam(0.1), 0.9)
    model, opt = trained(make().init(Net(), in_stacks=saved), Net())
    eqxopt.save(tmp_path / "run.npz", (model, opt))
    names = list(np.load(tmp_path / "run.npz"))
    assert "[1].optimizer.state.layers[1].weight.mu" in names
    like = Net(), make().init(Net(), in_stacks=loaded)
    model2, opt2 = eqxopt.load(tmp_path / "run.npz", like)
    assert jax.tree.structure(opt2) == jax.tree.structure(like[1])
    assert_equal((opt2.state, opt2.optimizer.state), (opt.state, opt.optimizer.state))
    assert_close(arrays(trained(opt2, model2)[0]), arrays(trained(opt, model)[0]), 1e-6)


def test_a_model_in_other_containers():
    """A list that came back as a tuple."""
    params = many_params()
    opt = eqxopt.Adam(0.1).init(params)
    _, expected = step(opt, params, params)
    as_tuple = tuple(params)
    _, after = step(opt, as_tuple, as_tuple)
    assert type(after.state) is tuple
    assert_equal(list(after.state), expected.state)


def test_a_parameter_that_grew():
    model = [jnp.ones(3), jnp.ones(3), jnp.ones(3)]
    opt = eqxopt.Adam(0.1).init(model)
    model[1] = jnp.ones(4)
    with pytest.raises(ValueError, match=r"`Adam`: the state at \[1\] does not fit"):
        opt.apply(model, model)


def test_state_of_sharded_parameters():
    """Some of one shape lie in shards, some on every device."""
    mesh = jax.make_mesh((8,), ("x",))
    place = lambda *spec: jax.NamedSharding(mesh, jax.P(*spec))
    specs = [place("x"), place("x"), place(), place()]
    keys = jax.random.split(jax.random.key(0), 4)
    params = [jax.random.normal(key, (16, 2)) for key in keys]
    expected, _ = step(eqxopt.Adam(0.1).init(params), params, params)
    params = jax.device_put(params, specs)
    opt = eqxopt.Adam(0.1).init(params)
    after, after_opt = step(opt, params, params)
    for states in (opt.state, after_opt.state):
        for state, param in zip(states, params):
            assert state.mu.sharding.is_equivalent_to(param.sharding, 2)
    assert_close(after, expected, 1e-6)
    again = jax.tree.map(lambda x: x.sharding, (after, after_opt))
    for _ in range(2):
        after, after_opt = step(after_opt, after, params)
    assert jax.tree.map(lambda x: x.sharding, (after, after_opt)) == again
