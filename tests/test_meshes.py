"""Types on a mesh: an optimizer is a carry of `scan` with explicit axes and inside
`jax.shard_map`."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import Case, each, OPTIMIZERS, OWN_OPTIMIZERS, OWN_WRAPPERS, WRAPPERS
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from training_loops import assert_close

import eqxopt


class Forgets(eqxopt.AbstractLeafwiseOptimizer):
    """Makes its next state of constants."""

    def init_leaf(self, param):
        return jnp.zeros(param.shape), jnp.zeros(param.shape[0])

    def update_leaf(self, t, grad, param, state):
        moment, rows = state
        sums = jnp.sum(grad, axis=tuple(range(1, grad.ndim)))
        return moment - grad, (jnp.ones(moment.shape), rows + sums)


OTHERS = {
    "Forgets": Case(Forgets),
    "optax": Case(lambda: eqxopt.interop.FromOptax(optax.adafactor(0.1))),
}
CASES = OPTIMIZERS | WRAPPERS | OWN_OPTIMIZERS | OWN_WRAPPERS | OTHERS
# A matrix so large that it can be factored, and others whose states share stacks.
SHAPES = {
    "matrix": (256, 130),
    "vector": (6,),
    "bias": (6,),
    "weight": (4, 2),
    "weight2": (4, 2),
}

# Those that look at each parameter alone, and those that may not.
ALONE = {name: case.make for name, case in OPTIMIZERS.items() if not case.coupled} | {
    "Accumulate": lambda: eqxopt.Accumulate(eqxopt.AdamW(0.1), 2),
    "ClipByNorm": lambda: eqxopt.Chain(eqxopt.ClipByNorm(1.0), eqxopt.Lion(0.1)),
    "EMA": WRAPPERS["EMA"].make,
    "Lookahead": WRAPPERS["Lookahead reset"].make,
    "Monitor": WRAPPERS["Monitor"].make,
}
COUPLED = [name for name in CASES if name not in OPTIMIZERS or OPTIMIZERS[name].coupled]


def mesh(kind=AxisType.Explicit):
    return jax.make_mesh((2,), ("x",), axis_types=(kind,), devices=jax.devices()[:2])


def spread(f, *specs, out=P("x")):
    """`f` on each of two devices."""
    return jax.shard_map(f, mesh=mesh(AxisType.Auto), in_specs=specs, out_specs=out)


def shapes(spec=None):
    sharding = None if spec is None else NamedSharding(mesh().abstract_mesh, spec)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for name, shape in SHAPES.items()
    }


def loss(params):
    return sum(jnp.sum(jnp.cos(x) + 0.1 * x**2) for x in jax.tree.leaves(params))


def step(params, opt):
    value, grads = jax.value_and_grad(loss)(params)
    residuals = lambda params: params
    return opt.apply(grads, params, value=value, value_fn=loss, residual_fn=residuals)


def kind(x):
    """All that two carries of a loop must have in common."""
    x = jax.typeof(x)
    varying = getattr(x, "manual_axis_type", x).varying
    spec = tuple(x.sharding.spec) or (None,) * x.ndim
    return x.shape, x.dtype, x.weak_type, spec, varying


def types(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): kind(x) for path, x in leaves}


def trained(opt, params, steps=2):
    """What a loop makes of both, which must keep every type."""
    body = lambda carry, _: (step(*carry), None)
    return jax.lax.scan(body, (params, opt), length=steps)[0]


@pytest.mark.parametrize("name", each(CASES))
def test_explicit_axes(name):
    def run(params):
        before = params, CASES[name].make().init(params)
        assert types(trained(before[1], params)) == types(before)
        return params

    with jax.set_mesh(mesh()):
        jax.eval_shape(run, shapes(P("x")))


@pytest.mark.parametrize("name", each(COUPLED))
def test_inside_shard_map(name):
    def run(params):
        before = params, CASES[name].make().init(params)
        assert types(trained(before[1], params)) == types(before)
        return params

    jax.eval_shape(spread(run, P("x")), shapes())


@pytest.mark.parametrize("name", each(ALONE))
def test_inside_shard_map_with_some_that_do_not_vary(name):
    """A parameter that is the same on all devices, and its state, stay so."""

    def run(params):
        before = params, ALONE[name]().init(params)
        after = types(trained(before[1], params))
        assert after == types(before)
        still = [at for at in after if "same" in at]
        assert len(still) >= 2 and not any(after[at][-1] for at in still)
        assert not after["[1].count"][-1]
        return params

    arrays = shapes() | {
        "same": jax.ShapeDtypeStruct((128, 130), jnp.float32),  # as a shard of `matrix`
        "same_vector": jax.ShapeDtypeStruct((3,), jnp.float32),
    }
    specs = {name: P() if "same" in name else P("x") for name in arrays}
    jax.eval_shape(spread(run, specs, out=specs), arrays)


SEARCHES = [
    eqxopt.ZoomLineSearch(),
    eqxopt.BacktrackingLineSearch(),
    eqxopt.GridLineSearch(4),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("explicit", [True, False])
def test_line_searches(search, explicit):
    def run(params):
        before = params, eqxopt.LBFGS(linesearch=search).init(params)

        def body(carry, _):
            params, opt = carry
            value, grads = opt.value_and_grad(loss, params)
            return opt.apply(grads, params, value=value, value_fn=loss), None

        assert types(jax.lax.scan(body, before, length=2)[0]) == types(before)
        return params

    if explicit:
        with jax.set_mesh(mesh()):
            jax.eval_shape(run, shapes(P("x")))
    else:
        jax.eval_shape(spread(run, P("x")), shapes())


@pytest.mark.parametrize("name", ["AdamW", "Accumulate", "LBFGS", "Prodigy"])
def test_each_device_trains_its_own(name):
    params = {"w": jnp.linspace(0.1, 2.0, 8).reshape(4, 2), "b": jnp.arange(4.0)}
    train = lambda params: trained(CASES[name].make().init(params), params, 3)[0]
    got = jax.jit(spread(train, P("x")))(params)
    for rows in (slice(2), slice(2, 4)):
        own = jax.jit(train)({k: x[rows] for k, x in params.items()})
        for k in params:
            assert jnp.allclose(got[k][rows], own[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [eqxopt.SkipNonFinite, partial(eqxopt.Accumulate, every=1, drop_nonfinite=True)],
)
def test_each_device_skips_its_own(wrap):
    def train(params):
        opt = wrap(eqxopt.SGD(0.1)).init(params)

        def body(carry, _):
            params, opt = carry
            grads = jax.grad(lambda x: jnp.sum(jnp.sqrt(x)))(params)
            return opt.apply(grads, params), None

        params, opt = jax.lax.scan(body, (params, opt), length=3)[0]
        assert kind(opt.optimizer.count)[-1] == {"x"}
        return params, opt.optimizer.count[None]

    params, counts = jax.jit(spread(train, P("x")))(jnp.array([4.0, -1.0]))
    assert params[0] < 4 and params[1] == -1
    assert counts.tolist() == [3, 0]


@pytest.mark.parametrize("name", ["AdamW", "Accumulate"])
def test_an_optimizer_from_outside(name):
    params = {"w": jnp.linspace(0.1, 2.0, 8).reshape(4, 2)}
    make = {"Accumulate": lambda: eqxopt.Accumulate(eqxopt.AdamW(0.1), 2)}
    opt = make.get(name, CASES[name].make)().init(params)
    specs = P("x"), jax.tree.map(lambda x: P("x") if x.ndim else P(), opt)

    def train(params, opt):
        body = lambda carry, _: (
            carry[1].apply(jax.grad(loss)(carry[0]), carry[0]),
            None,
        )
        return jax.lax.scan(body, (params, opt), length=4)[0]

    got = jax.jit(spread(train, *specs, out=specs))(params, opt)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(train(params, opt))):
        assert jnp.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["AdamW", "Accumulate", "Adafactor"])
def test_eager_steps_with_explicit_axes(name):
    place = NamedSharding(mesh(), P("x"))
    params = {"w": jax.device_put(jnp.ones((256, 130)), place)}
    with jax.set_mesh(mesh()):
        opt = CASES[name].make().init(params)
        first = step(params, opt)
        assert types(first) == types((params, opt))
        assert types(step(*first)) == types((params, opt))


@pytest.mark.parametrize("name", each(CASES))
def test_large_state_in_shards_with_explicit_axes(name):
    """What `init` puts in shards, such as factors, stays there."""
    place = NamedSharding(mesh(), P("x"))
    shapes = {"w": (256, 130), "b": (6,)}
    if name in {"BFGS", "SSBFGS", "SSBroyden"}:  # of that, gigabytes
        shapes = {"w": (8, 5)}
    params = {k: jax.device_put(jnp.ones(x), place) for k, x in shapes.items()}

    def check(params, opt):
        assert types(trained(opt, params)) == types((params, opt))

    with jax.set_mesh(mesh()):
        opt = CASES[name].make().init(params)
        jax.jit(check).trace(params, opt)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_microbatches_in_shards(microbatches):
    """`make_step` inside `shard_map`: each device has its rows, and splits them."""
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit,))
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    x = jax.random.normal(jax.random.key(0), (32, 3))
    loss = lambda p, x: jnp.mean(jnp.square(jnp.sin(x) @ p["w"] + p["b"][None] - 1))
    opt = eqxopt.AdamW(0.1).init(params)
    expected = eqxopt.make_step(loss, microbatches=microbatches)(params, opt, x)

    def step(params, opt, x):
        mean = lambda p, x: jax.lax.pmean(loss(p, x), "rows")
        return eqxopt.make_step(mean, microbatches=microbatches)(params, opt, x)

    everywhere, rows = P(), P("rows")
    specs = {"in_specs": (everywhere, everywhere, rows), "out_specs": everywhere}
    params, opt = jax.device_put(
        ({"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, eqxopt.AdamW(0.1).init(params)),
        NamedSharding(mesh, everywhere),
    )
    x = jax.device_put(x, NamedSharding(mesh, rows))
    got = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(params, opt, x)
    assert_close(jax.device_get(got), jax.device_get(expected), 1e-5)
