"""Parameters in bfloat16 and float16: what rounding would lose is kept."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from problems import Model, small_params
from training_loops import (
    arrays,
    assert_equal,
    avals,
    bits,
    donating_step,
    scanned,
    step,
    stepped,
)

import eqxopt
from eqxopt._precision._rounding import nearest, stochastic


DTYPES = [jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)]
KINDS = [
    eqxopt.CompensatedWeights,
    eqxopt.MasterWeights,
    eqxopt.SplitWeights,
    eqxopt.StochasticRounding,
]
EXACT = [kind for kind in KINDS if kind is not eqxopt.StochasticRounding]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS)


def in_dtype(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def wide(opt, params):
    """What the optimizer inside sees."""
    states = opt.state if opt.state else jax.tree.map(lambda _: (), params)
    return jax.tree.map(opt.widen_leaf, params, states)


def all_kinds_of_floats():
    """Float32 numbers of every exponent, zeros, ties, and what is not finite."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    usual = rng.standard_normal(50_000) * 10.0 ** rng.uniform(-9, 5, 50_000)
    edges = [0.0, -0.0, 65519.99, 65520.0, -65520.0, 65504.0, 3.3961775e38, 3.4e38]
    edges += [k * 2.0**-25 for k in range(-4, 9)] + [2.0**-14, 2.0**-14 - 2.0**-26]
    edges += [np.inf, -np.inf, np.nan, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11]
    usual, edges = np.float32(usual), np.float32(edges)
    return np.concatenate([drawn, usual, edges])


class TestRounding:
    @every_dtype
    def test_nearest_is_the_conversion(self, dtype):
        x = all_kinds_of_floats()
        with np.errstate(all="ignore"):
            expected = x.astype(dtype).astype(np.float32)
        got = np.asarray(jax.jit(nearest, static_argnums=1)(x, dtype))
        np.testing.assert_array_equal(got, expected)
        number = ~np.isnan(x)
        np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(x)[number])

    @every_dtype
    def test_stochastic_gives_a_neighbour(self, dtype):
        """Never infinity for a finite number, unless the nearest number is infinite."""
        x = all_kinds_of_floats()
        key = jnp.array([3, 4], jnp.uint32)
        got = np.asarray(jax.jit(stochastic, static_argnums=1)(x, dtype, key))
        with np.errstate(all="ignore"):
            near = x.astype(dtype)
            np.testing.assert_array_equal(got.astype(dtype).astype(np.float32), got)
            finite = np.isfinite(near)
            side = np.where(x > near.astype(np.float32), np.inf, -np.inf)
            other = np.nextafter(near, side.astype(dtype))
        is_near = got == near.astype(np.float32)
        is_other = finite & (got == other.astype(np.float32)) & (near != x)
        assert np.all(is_near | is_other | (np.isnan(x) & np.isnan(got)))
        assert np.all(np.isfinite(got[finite]))
        assert is_other.any()

    @every_dtype
    def test_stochastic_is_unbiased(self, dtype):
        """The mean of many draws, for numbers of all sizes, also subnormal ones."""
        x = np.float32([1.001, -1.003, 1.99, 123.4, 3e-3, 1e-5, -3e-7, 7e-8, 0.75])
        keys = jax.random.key_data(jax.random.split(jax.random.key(0), 4096))
        draw = jax.vmap(lambda key: stochastic(x, dtype, key))
        drawn = np.asarray(jax.jit(draw)(keys), np.float64)
        spread = drawn.std(0) / len(keys) ** 0.5
        ulp = drawn.max(0) - drawn.min(0)
        assert np.all(np.abs(drawn.mean(0) - x) <= 4 * spread + 2**-12 * ulp)
        assert np.all(ulp[:-1] > 0) and ulp[-1] == 0  # a number of `dtype` stays

    def test_entries_are_independent(self):
        """In an array, and from one key to the next."""
        x = jnp.full((64, 64), 1 + 2**-9)
        draw = jax.jit(jax.vmap(lambda key: stochastic(x, DTYPES[0], key)))
        keys = jax.random.key_data(jax.random.split(jax.random.key(1), 64))
        up = np.asarray(draw(keys) > 1, np.float64) - 0.25
        assert abs(up.mean()) < 5 * (0.1875 / up.size) ** 0.5
        for moved in (
            np.roll(up, 1, 0),
            np.roll(up, 1, 1),
            np.roll(up, 1, 2),
            np.roll(up, (1, 1), (0, 2)),
        ):
            correlation = np.mean(up * moved) / 0.1875
            assert abs(correlation) < 5 / up.size**0.5


def network(params, x):
    hidden = x @ params["weight"].astype(jnp.float32)
    hidden = jnp.tanh(hidden + params["bias"].astype(jnp.float32)[None])
    return hidden @ params["out"].astype(jnp.float32)


def teacher(seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {
        "weight": 0.5 * jax.random.normal(keys[0], (8, 32)),
        "bias": jnp.full(32, 0.5),
        "out": 0.3 * jax.random.normal(keys[1], (32, 1)),
    }
    return in_dtype(in_dtype(params, jnp.bfloat16), jnp.float32)


INPUTS = jax.random.normal(jax.random.key(9), (128, 8))


def teacher_loss(params):
    return jnp.mean((network(params, INPUTS) - network(teacher(5), INPUTS)) ** 2)


@jax.jit
def trained(opt, params):
    """The model and the optimizer after 2000 steps, and the loss."""

    def body(carry, _):
        params, opt = carry
        value, grads = jax.value_and_grad(teacher_loss)(params)
        return opt.apply(grads, params, value=value, value_fn=teacher_loss), None

    params, opt = jax.lax.scan(body, (params, opt), None, length=2000)[0]
    return params, opt, teacher_loss(params)


@pytest.fixture(scope="module")
def in_float32():
    params = teacher(0)
    return float(trained(eqxopt.AdamW(1e-4).init(params), params)[2])


class TestTraining:
    def test_plain_training_stalls(self, in_float32):
        params = in_dtype(teacher(0), jnp.bfloat16)
        opt = eqxopt.AdamW(1e-4).init(params)
        after, _, loss = trained(opt, params)
        assert loss > 4 * in_float32
        assert np.mean(np.asarray(after["bias"] == params["bias"])) > 0.5

    @every_kind
    @every_dtype
    def test_ends_where_float32_ends(self, kind, dtype, in_float32):
        params = in_dtype(teacher(0), dtype)
        opt = kind(eqxopt.AdamW(1e-4)).init(params)
        rtol = 0.05 if kind is eqxopt.StochasticRounding else 0.01
        np.testing.assert_allclose(trained(opt, params)[2], in_float32, rtol=rtol)


@every_dtype
def test_master_is_float32_training(dtype):
    """To the bit, with the same gradients."""
    inner = lambda: eqxopt.Chain(
        eqxopt.ClipByGlobalNorm(1.0), eqxopt.EMA(eqxopt.AdamW(1e-3), 0.9)
    )
    params = in_dtype(small_params(), dtype)
    single = in_dtype(params, jnp.float32)
    opt, alone = eqxopt.MasterWeights(inner()).init(params), inner().init(single)
    for seed in range(1, 8):
        grads = in_dtype(small_params(seed=seed), dtype)
        params, opt = step(opt, params, grads)
        single, alone = step(alone, single, grads)
        assert_equal({k: x.master for k, x in opt.state.items()}, single)
        assert_equal(params, in_dtype(single, dtype))
    assert_equal(opt.optimizer, alone)
    # The average is that of float32, rounded once.
    assert_equal(opt.eval_params(params), in_dtype(alone.eval_params(single), dtype))


class TestReconstruction:
    """`theta` and the correction are close to the float32 number that was rounded."""

    SAMPLES = np.float32(
        np.random.default_rng(1).standard_normal(4096)
        * 10.0 ** np.random.default_rng(2).uniform(-7, 4, 4096)
    )

    def held(self, kind, dtype, numbers):
        params = jnp.zeros(numbers.shape, dtype)
        opt = kind(eqxopt.SGD(1.0)).init(params)
        params, opt = opt.apply(-numbers, params)
        np.testing.assert_array_equal(params, numbers.astype(dtype))
        return np.asarray(wide(opt, params), np.float64)

    @pytest.mark.parametrize(
        "kind, dtype, relative, absolute",
        [
            (eqxopt.MasterWeights, jnp.bfloat16, 0, 0),
            (eqxopt.MasterWeights, jnp.float16, 0, 0),
            (eqxopt.CompensatedWeights, jnp.bfloat16, 2**-16, 0),
            (eqxopt.CompensatedWeights, jnp.float16, 2**-22, 2**-24),
            (eqxopt.SplitWeights, jnp.bfloat16, 2**-8 / 255, 0),
            (eqxopt.SplitWeights, jnp.float16, 2**-11 / 255, 2**-25 / 255),
        ],
    )
    def test_error(self, kind, dtype, relative, absolute):
        x = self.SAMPLES
        error = np.abs(self.held(kind, dtype, x) - x)
        # The sum is rounded to float32 as well.
        allowed = np.maximum(relative * np.abs(x), absolute) * 1.01
        assert np.all(error <= allowed + 2**-24 * np.abs(x) * (relative > 0))

    @pytest.mark.parametrize("kind", EXACT)
    def test_largest_and_smallest(self, kind):
        edges = np.float32([3.38e38, -3.38e38, 1.2e-38, -1.3e-38, 0, 65504, 2.0**-100])
        held = self.held(kind, jnp.bfloat16, edges)
        np.testing.assert_allclose(held, edges, rtol=2e-5, atol=1e-40)
        edges = np.float32([65519.0, -65504.0, 6.2e-5, 6e-8, 0])
        held = self.held(kind, jnp.float16, edges)
        np.testing.assert_allclose(held, edges, rtol=2e-6, atol=2**-25)


@every_kind
@every_dtype
def test_what_is_not_finite(kind, dtype):
    """Infinities stay, NaN stays, and all other entries train on."""
    params = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 1.0, 1.0, -0.0], dtype)
    opt = kind(eqxopt.SGD(1.0)).init(params)
    grads = jnp.array([1.0, 1.0, 1.0, jnp.nan, -jnp.inf, 0.0])
    for _ in range(2):
        params, opt = step(opt, params, grads)
    expected = [np.inf, -np.inf, np.nan, np.nan, np.inf, -0.0]
    np.testing.assert_array_equal(np.asarray(params, np.float32), expected)
    assert np.signbit(np.asarray(params[-1], np.float32))


@every_kind
def test_denormals_of_float16(kind):
    spacing = 2.0**-24
    params = jnp.zeros(256, jnp.float16)
    opt = kind(eqxopt.SGD(spacing / 4)).init(params)
    for _ in range(16):
        params, opt = step(opt, params, -jnp.ones(256))
    mean = np.asarray(params, np.float64).mean() / spacing
    if kind is eqxopt.CompensatedWeights:
        assert mean == 0  # the error has no smaller numbers either
    else:
        np.testing.assert_allclose(mean, 4, atol=0.5)


@pytest.mark.parametrize(
    "kind, dtype",
    [(kind, DTYPES[0]) for kind in KINDS] + [(kind, DTYPES[1]) for kind in KINDS[2:]],
)
class TestContract:
    def test_absent_gradients_change_nothing(self, kind, dtype):
        params = in_dtype(small_params(), dtype)
        opt = kind(eqxopt.AdamW(1e-3)).init(params)
        for seed in (1, 2):
            params, opt = step(opt, params, small_params(seed=seed))
        grads = small_params(seed=3)
        grads |= {"matrix": None, "scalar": np.zeros((), jax.dtypes.float0)}
        new, new_opt = opt.apply(grads, params)
        for absent in ("matrix", "scalar"):
            assert bits(new[absent]) == bits(params[absent])
            for before, after in ((opt, new_opt), (opt.optimizer, new_opt.optimizer)):
                if before.state:
                    assert bits(after.state[absent]) == bits(before.state[absent])
        assert bits(new["vector"]) != bits(params["vector"])

    def test_skipped_steps_change_nothing(self, kind, dtype):
        """Also if they are skipped inside."""
        params = in_dtype(small_params(), dtype) | {"zero": jnp.full(3, -0.0, dtype)}
        grads = small_params(seed=1) | {"zero": jnp.ones(3)}
        opt = kind(eqxopt.Accumulate(eqxopt.Lion(1e-3), 3)).init(params)
        for _ in range(3):
            params, opt = step(opt, params, grads)
        new, new_opt = step(opt, params, grads)
        assert bits(new) == bits(params)
        assert bits(new_opt.state) == bits(opt.state)

    def test_scan_donation_and_stacks(self, kind, dtype):
        params = in_dtype(small_params(), dtype)
        made = kind(eqxopt.AdamW(1e-3))
        opt = made.init(params)
        grads = [small_params(seed=i) for i in range(1, 5)]
        expected = stepped(opt, params, grads)
        assert_equal(scanned(opt, params, grads), expected)
        alone, _ = stepped(made.init(params, in_stacks=False), params, grads)
        if kind is not eqxopt.StochasticRounding:  # its bits go by the place in a stack
            assert_equal(alone, expected[0])
        first = step(opt, params, grads[0])
        assert avals(first) == avals((params, opt))
        assert_equal(donating_step(opt, params, grads[0]), first)
        assert params["matrix"].is_deleted() and opt.count.is_deleted()

    def test_no_two_leaves_share_a_buffer(self, kind, dtype):
        params = in_dtype(small_params(), dtype)
        opt = kind(eqxopt.AdamW(1e-3)).init(params)
        leaves = [x for x in jax.tree.leaves((opt, params)) if x.size > 0]
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)

    def test_saved_and_loaded(self, kind, dtype, tmp_path):
        def run(model, opt, steps):
            grads = eqx.filter(model, eqx.is_inexact_array)
            for _ in range(steps):
                model, opt = opt.apply(grads, model)
            return model, opt

        made = kind(eqxopt.AdamW(1e-3))
        model = Model(dtype=dtype)
        saved = run(model, made.init(model), 3)
        eqx.tree_serialise_leaves(tmp_path / "checkpoint.eqx", saved)
        other = Model(jax.random.key(1), dtype)
        like = other, made.init(other)
        loaded = eqx.tree_deserialise_leaves(tmp_path / "checkpoint.eqx", like)
        assert bits(arrays(run(*loaded, 1))) == bits(arrays(run(*saved, 1)))

    def test_population(self, kind, dtype):
        rates = jnp.array([1e-4, 1e-3, 1e-2])
        params = in_dtype(small_params(), dtype)
        grads = small_params(seed=1)
        after = jax.vmap(
            lambda rate: step(kind(eqxopt.AdamW(rate)).init(params), params, grads)[0]
        )(rates)
        for i, rate in enumerate(rates):
            alone = step(kind(eqxopt.AdamW(rate)).init(params), params, grads)[0]
            assert_equal(jax.tree.map(lambda x: x[i], after), alone)

    def test_slopes_are_finite(self, kind, dtype):
        params = in_dtype({"x": jnp.array([1.0, 0.0, -0.5])}, dtype)

        def final(rate):
            new, opt = params, kind(eqxopt.AdamW(rate)).init(params)
            for _ in range(3):
                grads = jax.tree.map(lambda x: x.astype(jnp.float32), new)
                new, opt = opt.apply(grads, new)
            return jnp.sum(new["x"].astype(jnp.float32) ** 2)

        slope = jax.grad(final)(0.01)
        # Down by about 6 steps of the rate, at each of two entries.
        assert -12 < slope < -5

    def test_on_a_mesh(self, kind, dtype):
        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
        params = {
            name: jax.random.normal(jax.random.key(i), (16, 4), dtype)
            for i, name in enumerate("wv")
        }
        made = kind(eqxopt.AdamW(1e-3))
        expected, _ = step(made.init(params), params, params)
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, NamedSharding(mesh, P("x")))
            opt = made.init(placed)
            for leaf in jax.tree.leaves(opt.state):
                assert "x" in leaf.sharding.spec
            got, _ = step(opt, placed, placed)
        assert got["w"].sharding.is_equivalent_to(placed["w"].sharding, 2)
        assert_equal(got, expected)

    def test_in_shards(self, kind, dtype):
        mesh = jax.make_mesh(
            (2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
        )
        params = {"w": jax.random.normal(jax.random.key(0), (16, 4), dtype)}

        def run(params):
            opt = kind(eqxopt.AdamW(1e-3)).init(params)
            body = lambda carry, _: (carry[1].apply(carry[0], carry[0]), None)
            return jax.lax.scan(body, (params, opt), None, length=2)[0][0]

        got = jax.shard_map(run, mesh=mesh, in_specs=P("x"), out_specs=P("x"))(params)
        if kind is not eqxopt.StochasticRounding:  # shards have the same bits
            assert_equal(got, run(params))


@every_kind
class TestOtherDtypes:
    def test_pass_through(self, kind, x64):
        params = {
            "single": jnp.ones((2, 2), jnp.float32),
            "double": jnp.ones(2, jnp.float64),
            "complex": jnp.ones(2, jnp.complex64),
            "half": jnp.ones(2, jnp.bfloat16),
        }
        grads = jax.tree.map(jnp.ones_like, params)
        opt = kind(eqxopt.AdamW(1e-3)).init(params)
        if opt.state:
            assert all(opt.state[k] == () for k in ("single", "double", "complex"))
        new, _ = opt.apply(grads, params)
        plain = eqxopt.AdamW(1e-3)
        expected, _ = plain.init(params).apply(grads, params)
        for name in ("single", "double", "complex"):
            assert_equal(new[name], expected[name])
        assert new["half"].dtype == jnp.bfloat16

    def test_too_narrow(self, kind):
        params = {"x": jnp.ones(2, jnp.float8_e4m3fn)}
        match = rf"`{kind.__name__}`: \['x'\] has dtype float8_e4m3fn.*Hold it in"
        with pytest.raises(TypeError, match=match):
            kind(eqxopt.SGD(0.1)).init(params)

    def test_a_dtype_that_init_did_not_see(self, kind):
        params = {"x": jnp.ones(2)}
        opt = kind(eqxopt.SGD(0.1)).init(params)
        half = in_dtype(params, jnp.bfloat16)
        if kind is eqxopt.StochasticRounding:  # which has no state
            assert opt.apply(half, half)[0]["x"].dtype == jnp.bfloat16
            return
        with pytest.raises(ValueError, match=r"state at \['x'\] does not fit"):
            opt.apply(half, half)


class TestChangesFromOutside:
    @pytest.mark.parametrize("kind", EXACT)
    def test_are_followed(self, kind):
        """Entry by entry: the others keep their corrections."""
        params = jnp.full(4, 1.0, jnp.bfloat16)
        opt = kind(eqxopt.SGD(1e-3)).init(params)
        for _ in range(3):
            params, opt = step(opt, params, jnp.ones(4))
        before = wide(opt, params)
        changed = params.at[0].set(5.0).at[1].set(0.0)
        after = wide(opt, changed)
        np.testing.assert_array_equal(after[2:], before[2:])
        assert abs(after[0] - 5) <= 2**-6 and after[1] == 0
        if kind is eqxopt.MasterWeights:
            assert after[0] == 5
        new, _ = step(opt, changed, jnp.zeros(4))
        np.testing.assert_array_equal(new, changed)

    @every_kind
    def test_wrappers_outside(self, kind):
        """They change updates, and the model is what they say."""
        params = in_dtype(small_params(), jnp.bfloat16)
        low, high = -0.2, 0.9
        opt = eqxopt.Lookahead(kind(eqxopt.Lion(1e-3)), 2)
        boxed = eqxopt.Chain(
            eqxopt.ClipByGlobalNorm(1.0), opt, eqxopt.KeepInBox(low, high)
        ).init(params)
        for seed in range(1, 6):
            params, boxed = step(boxed, params, small_params(seed=seed))
            for x in jax.tree.leaves(params):
                assert np.all((x >= low - 1e-3) & (x <= high + 2e-3))
        held = wide(boxed["Lookahead"].optimizer, params)
        for a, b in zip(jax.tree.leaves(held), jax.tree.leaves(params)):
            b = np.asarray(b, np.float32)
            np.testing.assert_allclose(a, b, rtol=2**-8, atol=1e-30)


class TestComposition:
    @every_kind
    def test_partition(self, kind):
        params = in_dtype(small_params(), jnp.bfloat16)
        opt = eqxopt.Partition(
            {"kept": kind(eqxopt.AdamW(1e-4)), "plain": eqxopt.AdamW(1e-4)},
            lambda path, array: "kept" if array.ndim > 1 else "plain",
        ).init(params)
        for seed in range(1, 4):
            params, opt = step(opt, params, small_params(seed=seed))
        own = opt.optimizers["kept"]
        if own.state:
            assert own.state["vector"] is None
            assert jax.tree.leaves(own.state["matrix"])

    @every_kind
    def test_partition_inside(self, kind):
        params = in_dtype(small_params(), jnp.bfloat16)
        inner = eqxopt.masked(eqxopt.SGD(0.1), lambda path, array: array.ndim > 1)
        opt = kind(inner).init(params)
        new, after = step(opt, params, small_params(seed=1))
        assert bits(new["vector"]) == bits(params["vector"])
        assert bits(new["matrix"]) != bits(params["matrix"])
        if opt.state:
            assert bits(after.state["vector"]) == bits(opt.state["vector"])

    @every_kind
    def test_accumulate(self, kind):
        """Two halves of a batch are a batch, for an optimizer around and one inside."""
        params = in_dtype(small_params(), jnp.bfloat16)
        grads = small_params(seed=1)
        whole, _ = step(kind(eqxopt.SGD(1e-3)).init(params), params, grads)
        for opt in (
            eqxopt.Accumulate(kind(eqxopt.SGD(1e-3)), 2),
            kind(eqxopt.Accumulate(eqxopt.SGD(1e-3), 2)),
        ):
            got, _ = stepped(opt.init(params), params, [grads, grads])
            # In the second step, other bits are drawn.
            if kind is not eqxopt.StochasticRounding:
                assert_equal(got, whole)

    @every_kind
    def test_value_fn_is_given_the_model_as_it_is(self, kind):
        target = jnp.array([1.0, -2.0, 0.5])
        seen = []

        def loss(model):
            seen.append((type(model), model.weight.dtype, model.name))
            x = model.weight.astype(jnp.float32)
            return jnp.sum((x - target) ** 2 * jnp.array([1.0, 10.0, 3.0]))

        model = Named(jnp.zeros(3, jnp.bfloat16))
        opt = kind(eqxopt.LBFGS(memory_size=3)).init(model)
        for _ in range(6):
            value, grads = eqx.filter_value_and_grad(loss)(model)
            model, opt = opt.apply(grads, model, value=value, value_fn=loss)
        assert set(seen) == {(Named, jnp.dtype(jnp.bfloat16), "named")}
        # Random rounding ends near the minimum, not at it.
        rtol = 0.1 if kind is eqxopt.StochasticRounding else 2**-7
        np.testing.assert_allclose(model.weight.astype(float), target, rtol=rtol)

    @every_kind
    def test_residual_fn_is_given_the_model_as_it_is(self, kind):
        def residuals(x):
            assert x.dtype == jnp.bfloat16
            return x.astype(jnp.float32) - jnp.array([1.0, -2.0])

        params = jnp.zeros(2, jnp.bfloat16)
        opt = kind(eqxopt.GaussNewton()).init(params)
        loss = lambda x: 0.5 * jnp.sum(residuals(x) ** 2)
        for _ in range(3):
            value, grads = jax.value_and_grad(loss)(params)
            params, opt = opt.apply(grads, params, value=value, residual_fn=residuals)
        np.testing.assert_allclose(params.astype(float), [1, -2], rtol=2**-7)

    @every_kind
    def test_evaluation_of_the_model_itself(self, kind):
        params = in_dtype(small_params(), jnp.bfloat16)
        opt = kind(eqxopt.AdamW(1e-3)).init(params)
        params, opt = step(opt, params, small_params(seed=1))
        assert opt.eval_params(params) is params

    def test_average_inside(self):
        """An average of the masters, in which updates below the resolution count."""
        params = jnp.ones(2, jnp.bfloat16)
        opt = eqxopt.MasterWeights(eqxopt.EMA(eqxopt.SGD(1e-3), 0.5)).init(params)
        for _ in range(8):
            params, opt = step(opt, params, jnp.ones(2))
        mean = opt.optimizer.state.mean
        np.testing.assert_allclose(mean, 0.99297, atol=1e-5)
        assert_equal(opt.eval_params(params), mean.astype(jnp.bfloat16))

    def test_keys(self):
        """Two runs with one key agree, and two keys differ."""
        params = jnp.ones(512, jnp.bfloat16)

        def run(key):
            opt = eqxopt.StochasticRounding(eqxopt.SGD(1e-3), key=key).init(params)
            return step(opt, params, jnp.ones(512))[0]

        assert bits(run(0)) == bits(run(0)) == bits(run(jax.random.key(0)))
        assert bits(run(0)) != bits(run(1))
        new = run(0)
        after = eqxopt.StochasticRounding(eqxopt.SGD(1e-3)).init(params)
        _, after = step(after, params, jnp.ones(512))
        again, _ = step(after, params, jnp.ones(512))
        assert bits(again) != bits(new)  # the next step draws others


class Named(eqx.Module):
    weight: jax.Array
    name: str = eqx.field(static=True, default="named")


class Half(eqxopt.AbstractNarrowWeights):
    """A user's own: keeps nothing, as a model without a wrapper does."""

    optimizer: eqxopt.AbstractOptimizer

    def init_leaf(self, param):
        return ()

    def widen_leaf(self, param, state):
        return param.astype(jnp.float32)

    def round_leaf(self, wide, dtype):
        return wide.astype(dtype).astype(jnp.float32), ()


def test_a_class_of_your_own():
    params = in_dtype(small_params(), jnp.bfloat16)
    grads = [small_params(seed=i) for i in range(1, 4)]
    got, _ = stepped(Half(eqxopt.AdamW(1e-3)).init(params), params, grads)
    expected, _ = stepped(eqxopt.AdamW(1e-3).init(params), params, grads)
    assert_equal(got, expected)


class TestWarnings:
    def test_describe(self):
        params = {
            "a": jnp.ones(2, jnp.bfloat16),
            "b": jnp.ones(2, jnp.float16),
            "c": jnp.ones(2),
        }
        plain = eqxopt.describe(eqxopt.SGD(0.1).init(params), params)
        assert plain.splitlines()[-2:] == [
            "bfloat16 loses updates below 2^-8 of an entry: see `eqxopt.MasterWeights`",
            "float16 loses updates below 2^-11 of an entry: see `eqxopt.MasterWeights`",
        ]
        for kind in KINDS:
            opt = eqxopt.Chain(eqxopt.Sign(), kind(eqxopt.SGD(0.1))).init(params)
            assert "loses" not in eqxopt.describe(opt, params)
        split = lambda kind: eqxopt.Partition(
            {"still": eqxopt.Freeze(), "moves": kind(eqxopt.SGD(0.1))},
            {"a": "moves", "b": "still", "c": "moves"},
        ).init(params)
        assert "loses" not in eqxopt.describe(split(eqxopt.MasterWeights), params)
        notes = eqxopt.describe(split(eqxopt.Cautious), params).split("\n")[5:]
        assert len(notes) == 1 and notes[0].startswith("bfloat16 loses")

    def fit(self, opt, steps=20, dtype=jnp.bfloat16, rate=1e-4):
        params = {
            "weight": jnp.linspace(0.5, 1, 3000).reshape(60, 50).astype(dtype),
            "fast": jnp.zeros((), dtype),
        }
        loss = lambda p: sum(
            jnp.sum((x.astype(jnp.float32) - 2) ** 2) for x in jax.tree.leaves(p)
        )
        opt = opt(eqxopt.Adam(rate)).init(params)
        return eqxopt.fit(loss, params, opt, steps=steps, progress=False)

    def test_fit_warns_once(self):
        match = (
            r"`fit`: 100% of the entries of \['weight'\] never moved. It is bfloat16, "
            r"in which updates below 2\^-8 of an entry are lost. Keep them with "
            r"`eqxopt.MasterWeights\(optimizer\)`"
        )
        with pytest.warns(UserWarning, match=match) as seen:
            self.fit(lambda opt: opt)
        assert len(seen) == 1

    def test_fit_on_a_mesh(self):
        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
        with jax.set_mesh(mesh):
            params = jax.device_put(
                jnp.ones((16, 4), jnp.bfloat16), NamedSharding(mesh, P("x"))
            )
            opt = eqxopt.SGD(1e-6).init(params)
            loss = lambda x: jnp.sum(x.astype(jnp.float32) ** 2)
            with pytest.warns(UserWarning, match="100% of the entries of the root"):
                eqxopt.fit(loss, params, opt, steps=10, progress=False)

    @every_kind
    def test_fit_is_content(self, kind):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.fit(kind)
            self.fit(lambda opt: opt, dtype=jnp.float32)
            self.fit(lambda opt: opt, rate=1e-1)
            self.fit(lambda opt: opt, steps=2)
            self.fit(lambda opt: eqxopt.Freeze())
