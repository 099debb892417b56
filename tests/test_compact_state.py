"""Moments in fewer bits: the contract, what is kept of them, and that it is enough."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import CURVED, Model, small_params
from training_loops import (
    arrays,
    assert_close,
    assert_equal,
    avals,
    bits,
    donating_step,
    scanned,
    step,
    stepped,
)

import eqxopt


STORAGES = ["bfloat16", "packed", "8-bit"]
INNER = {
    "AdaBelief": lambda: eqxopt.AdaBelief(0.01),
    "AdamW": lambda: eqxopt.AdamW(0.01),
    "Lion": lambda: eqxopt.Lion(0.01),
    "Muon": lambda: eqxopt.Muon(0.01, fallback=eqxopt.AdamW(0.01)),
    "SGD": lambda: eqxopt.SGD(0.01, momentum=0.9),
}

# All tests of one case run in a row, so that they share compiled programs.
every_storage = pytest.mark.parametrize("storage", STORAGES, scope="module")
every_case = pytest.mark.parametrize(
    "name, storage", [(n, s) for n in INNER for s in STORAGES], scope="module"
)


def made(name, storage):
    return eqxopt.CompactState(INNER[name](), storage, min_size=1)


def with_rate(opt, name, rate):
    label = "Muon.learning_rate" if name == "Muon" else "learning_rate"
    return opt.replace(**{label: rate})


def codes(opt):
    """The arrays of moments that are not in float32."""
    dtypes = jnp.bfloat16, jnp.uint32, jnp.int8, jnp.uint8
    leaves = jax.tree.leaves(opt.optimizer)
    return [x for x in leaves if x.dtype in dtypes]


@every_case
class TestContract:
    def test_same_in_same_out(self, name, storage):
        params, grads = small_params(), small_params(seed=1)
        opt = made(name, storage).init(params)
        after = step(opt, params, grads)
        programs = step._cache_size()
        assert codes(opt) and avals(after) == avals((params, opt))
        step(after[1], after[0], grads)
        step(with_rate(opt, name, 0.5), params, grads)
        assert step._cache_size() == programs
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(opt))
        leaves = [x for x in jax.tree.leaves((opt, params)) if x.size > 0]
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
        assert avals(jax.eval_shape(made(name, storage).init, params)) == avals(opt)
        donated = donating_step(opt, params, grads)
        assert_close(donated[0], after[0], 1e-6)

    def test_scan_is_the_loop(self, name, storage):
        params = small_params()
        opt = made(name, storage).init(params)
        grads = [small_params(seed=i) for i in range(1, 4)]
        (loop, _), (scan, _) = stepped(opt, params, grads), scanned(opt, params, grads)
        assert_close(scan, loop, 1e-4)

    def test_saved_and_loaded(self, name, storage, tmp_path):
        model = Model()
        opt = made(name, storage).init(model)
        grads = eqx.filter(model, eqx.is_inexact_array)
        model, opt = opt.apply(grads, model, **CURVED)
        path = tmp_path / "checkpoint.eqx"
        eqx.tree_serialise_leaves(path, (model, opt))
        fresh = Model(jax.random.key(1))
        like = fresh, made(name, storage).init(fresh)
        loaded, loaded_opt = eqx.tree_deserialise_leaves(path, like)
        expected = opt.apply(grads, model, **CURVED)
        got = loaded_opt.apply(grads, loaded, **CURVED)
        assert_equal(arrays(got), arrays(expected))

    def test_absent_gradients_change_nothing(self, name, storage):
        params = small_params()
        opt = made(name, storage).init(params)
        params, opt = step(opt, params, small_params(seed=1))
        grads = small_params(seed=2) | {"matrix": None}
        new, after = opt.apply(grads, params, **CURVED)
        assert bits(new["matrix"]) == bits(params["matrix"])
        old_state, state = (x.optimizer.state for x in (opt, after))
        assert bits(state["matrix"]) == bits(old_state["matrix"])
        assert bits(new["vector"]) != bits(params["vector"])

    def test_half_precision_and_zeros(self, name, storage):
        params = jax.tree.map(lambda x: x.astype(jnp.float16), small_params())
        opt = made(name, storage).init(params)
        before = avals((params, opt))
        for _ in range(2):
            zeros = jax.tree.map(jnp.zeros_like, params)
            params, opt = step(opt, params, zeros)
        assert avals((params, opt)) == before
        for leaf in jax.tree.leaves((params, opt)):
            assert np.all(np.isfinite(np.asarray(leaf, np.float64)))

    def test_population(self, name, storage):
        """A population is what its members are alone."""
        rates = jnp.asarray([0.01, 0.02])
        params, grads = small_params(), small_params(seed=1)

        def trained(rate):
            opt = with_rate(made(name, storage), name, rate).init(params)
            for _ in range(2):
                after, opt = opt.apply(grads, params, **CURVED)
            return after

        together = jax.jit(jax.vmap(trained))(rates)
        for i, rate in enumerate(rates):
            alone = jax.jit(trained)(rate)
            assert_close(jax.tree.map(lambda x: x[i], together), alone, 1e-3)


@every_storage
def test_codes_lie_where_parameters_lie(storage):
    mesh = jax.make_mesh((8,), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = {"w": jax.random.normal(jax.random.key(0), (64, 128))}
    expected = stepped(made("AdamW", storage).init(params), params, [params] * 2)
    params = jax.device_put(params, rows)
    init = lambda params: made("AdamW", storage).init(params)
    for init in (init, jax.jit(init)):
        opt = init(params)
        got = stepped(opt, params, [params] * 2)
        for x in codes(opt) + codes(got[1]):
            assert x.sharding.is_equivalent_to(rows, 2)
        assert_close(got[0], expected[0], 1e-6)


@pytest.mark.parametrize("axis_type", ["Explicit", "Auto"])
@every_storage
def test_meshes(storage, axis_type):
    kind = getattr(jax.sharding.AxisType, axis_type)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    params = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
    expected, _ = step(made("AdamW", storage).init(params), params, params)
    with jax.set_mesh(mesh):
        for spec in (("x", None), (None, "x")):
            spread = jax.device_put(params, jax.P(*spec))
            opt = made("AdamW", storage).init(spread)
            got, _ = step(opt, spread, spread)
            assert_close(jax.device_get(got), jax.device_get(expected), 1e-5)


def trained(opt, steps=100):
    """Gradients with a mean and noise, for entries of very different sizes."""
    params = jnp.zeros((96, 50))
    scale = jnp.logspace(-4, 2, params.size).reshape(params.shape)

    @jax.jit
    def run(opt, params):
        def body(carry, i):
            params, opt = carry
            noise = jax.random.normal(
                jax.random.fold_in(jax.random.key(0), i), (96, 50)
            )
            return opt.apply(scale * (0.3 + noise), params), None

        return jax.lax.scan(body, (params, opt), jnp.arange(steps))[0]

    return run(opt.init(params), params)


@pytest.mark.parametrize(
    "storage, mu_error, nu_error",
    [("bfloat16", 0.06, 0.02), ("packed", 0.15, 0.01), ("8-bit", 0.06, 0.03)],
)
def test_moments_stay_near(storage, mu_error, nu_error):
    """After 100 steps they are what float32 has, within the resolution that the form
    has and the number of steps that a moment lasts."""
    params, opt = trained(eqxopt.CompactState(eqxopt.Adam(1e-2), storage))
    exact_params, exact = trained(eqxopt.Adam(1e-2))
    got, expected = opt.decoded.state, exact.state
    blocks = lambda x: np.abs(np.asarray(x)).reshape(96, 50)
    size = np.sqrt(np.asarray(expected.nu))
    if storage == "8-bit":  # an error is small beside the largest of its block
        size = np.maximum.accumulate(np.asarray(size), axis=1)[:, -1:]
        size = np.broadcast_to(size, (96, 50))
    assert np.max(blocks(got.mu - expected.mu) / size) < mu_error
    assert np.max(np.abs(np.sqrt(got.nu) - np.sqrt(expected.nu)) / size) < nu_error
    assert np.max(np.abs(params - exact_params)) < 0.03


def test_rounding_at_random_has_no_bias():
    """A mean of squares that falls by a thousandth a step, which rounding to nearest
    would never do, falls as it should."""
    params = jnp.ones((100, 100))
    opt = eqxopt.CompactState(eqxopt.Adam(0.0), "bfloat16").init(params)
    _, opt = opt.apply(params, params)
    for i in range(100):
        _, opt = step(opt, params, jnp.zeros_like(params))
    nu = np.asarray(opt.decoded.state.nu, np.float64)
    assert len(np.unique(nu)) > 2
    np.testing.assert_allclose(nu.mean(), 0.001 * 0.999**100, rtol=1e-3)


@every_storage
def test_stored_again_without_change(storage):
    """What is decoded and stored has the same bits: a skipped step changes nothing."""
    params = jax.random.normal(jax.random.key(0), (70, 70))
    skips = eqxopt.SkipNonFinite(eqxopt.AdamW(0.1))
    opt = eqxopt.CompactState(skips, storage).init(params)
    params, opt = opt.apply(params * 1e-3, params)
    after, new = opt.apply(jnp.full_like(params, jnp.nan), params)
    assert_equal(after, params)
    assert bits(codes(new)) == bits(codes(opt))


@every_storage
def test_numbers_at_the_ends(storage):
    """Zeros, numbers below the normal ones, large numbers, infinities and NaN."""
    inner = eqxopt.SGD(0.0, momentum=0.5)
    values = [0.0, 1e-42, 1e-20, 3.0, 8e37, -8e37, jnp.inf, -jnp.inf, jnp.nan]
    grads = jnp.repeat(jnp.asarray(values)[:, None], 40, axis=1)  # a row a block
    opt = eqxopt.CompactState(inner, storage, min_size=1).init(grads)
    _, opt = opt.apply(grads, grads)
    trace = np.asarray(opt.decoded.state.trace)
    np.testing.assert_allclose(trace[2:6], grads[2:6], rtol=0.02)
    assert np.all(trace[0] == 0) and np.all(np.abs(trace[1]) <= 1.1e-42)
    assert not np.any(np.isfinite(trace[6:]))
    assert np.all(np.isnan(trace[8]))


@every_storage
def test_small_squares_are_not_zero(storage):
    """An entry whose gradients are tiny beside those of its neighbours, and then 0,
    makes no large step."""
    opt = eqxopt.CompactState(eqxopt.Adam(0.1), storage, min_size=1)
    params = jnp.zeros((4, 32))
    grads = jnp.full_like(params, 1e-4).at[:, 0].set(100.0)
    params, opt = opt.init(params).apply(grads, params)
    for _ in range(3):
        before = params
        params, opt = step(opt, params, jnp.zeros_like(params))
        assert np.max(np.abs(params - before)) < 0.2


def test_what_is_left_alone():
    params = {
        "small": jnp.ones((64, 64)),
        "large": jnp.ones((65, 64)),
        "no": jnp.ones(9),
    }
    params["empty"] = jnp.ones((0, 5000))
    opt = eqxopt.CompactState(eqxopt.AdamW(0.1)).init(params)
    state = opt.optimizer.state
    assert state["small"].mu.dtype == jnp.float32
    assert state["large"].mu.codes.dtype == jnp.int8
    assert state["large"].nu.codes.dtype == jnp.uint8
    choose = lambda path, x: "packed" if "large" in path else "float32"
    opt = eqxopt.CompactState(eqxopt.AdamW(0.1), choose, min_size=1).init(params)
    assert opt.optimizer.state["large"].mu.word.dtype == jnp.uint32
    assert opt.optimizer.state["no"].nu.dtype == jnp.float32
    by_tree = {"small": "8-bit", "large": "packed", "no": "float32", "empty": "packed"}
    opt = eqxopt.CompactState(eqxopt.AdamW(0.1), by_tree, min_size=1).init(params)
    assert opt.optimizer.state["small"].mu.codes.dtype == jnp.int8
    step(opt, params, params)


@every_storage
def test_first_moments_that_are_not_zero(storage):
    params = jnp.ones((70, 70))
    inner = eqxopt.RMSProp(0.1, initial_scale=2.0)
    opt = eqxopt.CompactState(inner, storage).init(params)
    np.testing.assert_allclose(opt.decoded.state.nu, 2.0)


@every_storage
def test_small_models(storage):
    """Where nothing is large, nothing is stored in other bits, and nothing fails."""
    params = small_params()
    opt = eqxopt.CompactState(eqxopt.AdamW(0.01), storage).init(params)
    assert not codes(opt)
    got = step(opt, params, params)[0]
    assert_equal(got, step(eqxopt.AdamW(0.01).init(params), params, params)[0])


def test_in_compositions():
    """Inside and outside of others, and in groups, only moments are stored."""
    params = {"a": jnp.ones((70, 70)), "b": jnp.ones((70, 70))}
    groups = eqxopt.Partition(
        {"adam": eqxopt.AdamW(0.1), "lion": eqxopt.Lion(0.1)},
        {"a": "adam", "b": "lion"},
    )
    opt = eqxopt.EMA(
        eqxopt.Chain(
            eqxopt.ClipByGlobalNorm(1.0),
            eqxopt.Accumulate(eqxopt.CompactState(eqxopt.EMA(groups, 0.5)), 2),
        ),
        0.5,
    ).init(params)
    for _ in range(4):
        params, opt = step(opt, params, params)
    inside = opt.optimizer.transforms[1].optimizer
    assert inside.optimizer.state["a"].mean.dtype == jnp.float32
    assert inside.optimizer.count == 2
    stored = inside.optimizer.optimizer.optimizers
    assert stored["adam"].state["a"].mu.codes.dtype == jnp.int8
    assert stored["lion"].state["b"].mu.codes.dtype == jnp.int8
    averaged = opt.eval_params(params)["a"]
    assert np.all(np.isfinite(averaged)) and np.all(averaged < 1)


def test_narrow_weights_and_state():
    """A model in bfloat16 with 5.25 bytes an entry in all."""
    params = jax.random.normal(jax.random.key(0), (128, 128), jnp.bfloat16)
    narrow = eqxopt.CompactState(eqxopt.AdamW(1e-3, weight_decay=0.0), "8-bit")
    opt = eqxopt.SplitWeights(narrow).init(params)
    arrays = [x for x in jax.tree.leaves((params, opt)) if x.ndim > 1]
    assert sum(x.nbytes for x in arrays) == 5.25 * params.size
    first = params
    for _ in range(3):
        params, opt = step(opt, params, jnp.sign(first))
    moved = (params - first).astype(jnp.float32)
    small = jnp.abs(first) < 0.1  # where bfloat16 shows a thousandth
    expected = -0.003 * jnp.sign(first).astype(jnp.float32)
    np.testing.assert_allclose(moved[small], expected[small], atol=6e-4)


def test_several_moments():
    """The first two of a kind share a word, and others are alone."""
    params = jnp.ones((70, 70))
    kinds = lambda opt: [
        type(x).__name__
        for x in jax.tree.leaves(
            eqxopt.CompactState(opt, "packed").init(params).optimizer.state,
            is_leaf=lambda x: hasattr(x, "dtypes"),
        )
    ]
    assert kinds(eqxopt.AdEMAMix(0.1)) == ["Pair", "Half"]
    assert kinds(eqxopt.Adan(0.1)) == ["Pair", "Pair"]
    assert kinds(eqxopt.Adadelta(0.1)) == ["Pair"]
    assert kinds(eqxopt.Lion(0.1)) == ["Half"]


def program(opt, params):
    step = jax.jit(lambda o, p, g: o.apply(g, p), donate_argnums=(0, 1))
    return step.lower(opt, params, params).compile().as_text()


def temporaries(storage, name):
    """The types of all arrays that the program of a step keeps in memory."""
    params = jnp.ones((1024, 1024))
    inner = getattr(eqxopt, name)(0.01)
    text = program(eqxopt.CompactState(inner, storage).init(params), params)
    entry = text[text.index("\nENTRY") :]
    made = [line.split(" = ")[1] for line in entry.splitlines() if " = " in line]
    return [x for x in made if "1024,1024]" in x or "1024,32,32]" in x]


@pytest.mark.parametrize("name", ["AdamW", "AdaBelief", "LaProp", "Lion"])
@every_storage
def test_no_float32_copy_of_the_state(name, storage):
    """Nothing of the size of the parameter is float32 but the parameter and its
    gradient, and the next parameter."""
    wide = [x for x in temporaries(storage, name) if x.startswith("f32")]
    fresh = [x for x in wide if "parameter(" not in x and "bitcast(" not in x]
    assert len(wide) - len(fresh) == 2
    assert len(fresh) == 1


@every_storage
def test_matrices_are_multiplied_once(storage):
    params = jnp.ones((70, 70))
    soap = eqxopt.SOAP(0.01)
    texts = [
        program(opt.init(params), params)
        for opt in (soap, eqxopt.CompactState(soap, storage))
    ]
    branches = [text.count(" conditional(") for text in texts]
    assert branches[0] == branches[1] > 0


def test_mistakes():
    params = jnp.ones((70, 70))
    with pytest.raises(ValueError, match="must be one of 'float32', 'bfloat16'"):
        eqxopt.CompactState(eqxopt.Adam(0.1), "int8")
    with pytest.raises(ValueError, match="must be one of .* not 'int4'"):
        eqxopt.CompactState(eqxopt.Adam(0.1), lambda path, x: "int4").init(params)
    with pytest.raises(ValueError, match="whose sum is 15"):
        eqxopt.CompactState(eqxopt.Adam(0.1), "packed", mantissas=(8, 8))
    with pytest.raises(ValueError, match="`SGD` keeps no moments"):
        eqxopt.CompactState(eqxopt.SGD(0.1)).init(params)
    opt = eqxopt.CompactState(eqxopt.Adam(0.1))
    with pytest.raises(
        ValueError, match=r"\['z'\], whose moments have dtype complex64"
    ):
        opt.init({"z": params.astype(complex)})
    with pytest.raises(ValueError, match="has no state: call"):
        opt.decoded

    def final(rate):
        after, made = params, opt.replace(learning_rate=rate).init(params)
        for _ in range(2):
            after, made = made.apply(after, after)
        return jnp.sum(after)

    with pytest.raises(TypeError, match="training cannot be differentiated"):
        jax.grad(final)(0.1)
