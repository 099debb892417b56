"""Training on a mesh of eight devices: arrays stay where they are, and each device does
its part."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from training_loops import assert_close

import eqxopt
from benchmarks import report
from benchmarks.devices import _compiled, devices


LAYOUTS = ["data", "zero-1", "fsdp"]
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
ROWS, BATCH = 64, 32

every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def mesh_of(kind, shape=(8,), names=("data",)):
    return jax.make_mesh(shape, names, (KINDS[kind],) * len(names))


def model():
    """Weights, biases that divide, and one that does not."""
    return eqx.nn.MLP(16, 5, 32, 1, key=jax.random.key(0))


def loss(model, x, y):
    # With explicit axes a product needs its weights whole, and it is the user's to say.
    model = jax.tree.map(whole, model)
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def whole(x):
    if not eqx.is_array(x):
        return x
    mesh = jax.typeof(x).sharding.mesh
    explicit = AxisType.Explicit in mesh.axis_types
    return jax.sharding.reshard(x, NamedSharding(mesh, P())) if explicit else x


def data():
    x = jax.random.normal(jax.random.key(1), (ROWS, 16))
    return np.asarray(x), np.asarray(jnp.sin(x[:, :5]))


def places(*trees):
    return [x.sharding for x in jax.tree.leaves(eqx.filter(trees, eqx.is_array))]


def assert_same_numbers(got, expected):
    got, expected = jax.device_get(eqx.filter((got, expected), eqx.is_array))
    assert_close(got, expected, 1e-4)


@pytest.fixture(scope="module")
def expected():
    """Four steps on one device."""
    step = eqxopt.make_step(loss)
    trained = model(), eqxopt.AdamW(0.01).init(model(), in_stacks=False)
    for _ in range(4):
        *trained, _ = step(*trained, *data())
    return tuple(trained)


@every_kind
@every_layout
class TestLayouts:
    def test_where_arrays_lie(self, layout, kind):
        mesh = mesh_of(kind)
        net, opt = eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh, layout)
        weight, mu = net.layers[0].weight, opt.state.layers[0].weight.mu
        assert weight.sharding.shard_shape(weight.shape) == (
            (4, 16) if layout == "fsdp" else (32, 16)
        )
        assert mu.sharding.shard_shape(mu.shape) == (
            (32, 16) if layout == "data" else (4, 16)
        )
        uneven = net.layers[1].bias, opt.state.layers[1].bias.mu, opt.count
        assert all(x.sharding.is_fully_replicated for x in uneven)
        assert all(x.sharding.num_devices == 8 for x in uneven)

    @pytest.mark.parametrize("microbatches", [1, 2])
    def test_make_step_keeps_them(self, layout, kind, microbatches, expected):
        mesh = mesh_of(kind)
        traces = []

        def counted(*args):
            traces.append(0)
            return loss(*args)

        net, opt = eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh, layout)
        before = places(net, opt)
        batch = jax.device_put(data(), NamedSharding(mesh, P("data")))
        step = eqxopt.make_step(counted, microbatches=microbatches)
        net, opt, _ = step(net, opt, *batch)
        once = len(traces)
        for _ in range(3):
            net, opt, _ = step(net, opt, *batch)
        assert len(traces) == once
        assert places(net, opt) == before
        assert_same_numbers((net, opt), expected)

    def test_fit_keeps_them(self, layout, kind, fitted):
        mesh = mesh_of(kind)
        net, opt = eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh, layout)
        before = places(net, opt)
        net, opt, _ = fit(net, opt, data())
        assert places(net, opt) == before
        assert_same_numbers((net, opt), fitted[:2])


def fit(net, opt, batches, loss_fn=loss, **options):
    if not isinstance(batches, list):
        own_order = options.get("batch_size") == ROWS
        key = None if own_order else jax.random.key(2)
        options = {"batch_size": BATCH, "key": key} | options
    return eqxopt.fit(
        loss_fn, net, opt, batches, steps=4, progress=False, steps_per_call=2, **options
    )


@pytest.fixture(scope="module")
def fitted():
    """Four steps of `fit` on one device."""
    return fit(model(), eqxopt.AdamW(0.01).init(model(), in_stacks=False), data())


@every_kind
class TestDataOnAMesh:
    def start(self, kind):
        mesh = mesh_of(kind)
        return mesh, *eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh)

    @pytest.mark.parametrize("where", ["host", "everywhere", "loader", "whole"])
    def test_the_batches_of_one_device(self, kind, where, fitted):
        """And each device computes its own rows of them alone."""
        mesh, net, opt = self.start(kind)
        seen = []

        def watched(model, x, y):
            jax.debug.inspect_array_sharding(x, callback=seen.append)
            return loss(model, x, y)

        batches, rows, options = data(), BATCH, {}
        if where == "everywhere":
            batches = jax.device_put(batches, NamedSharding(mesh, P()))
        if where == "loader":
            batches = [tuple(x[i::2] for x in batches) for i in (0, 1, 0, 1)]
        if where == "whole":
            options, rows = {"batch_size": ROWS}, ROWS
        got = fit(net, opt, batches, watched, **options)
        assert {x.shard_shape((rows, 16)) for x in seen} == {(rows // 8, 16)}
        if where in ("host", "everywhere"):
            assert_same_numbers(got[0], fitted[0])
            assert_close(got[2].loss, fitted[2].loss, 1e-5)
        else:
            one = fit(model(), eqxopt.AdamW(0.01).init(model()), batches, **options)
            assert_same_numbers(got[0], one[0])

    def test_own_rows(self, kind):
        """Of data in shards each device draws its own rows: all of them, once."""
        mesh, net, opt = self.start(kind)
        x, y = data()
        y = np.broadcast_to(np.arange(ROWS, dtype=np.float32)[:, None], y.shape)
        batches = jax.device_put((x, y), NamedSharding(mesh, P("data")))
        drawn = []

        def watched(model, x, y):
            note = lambda device, rows: drawn.append((int(device), rows.tolist()))
            rows = jax.shard_map(
                lambda y: jax.debug.callback(note, jax.lax.axis_index("data"), y[:, 0]),
                mesh=mesh,
                in_specs=P("data"),
                out_specs=None,
            )
            rows(y)
            return loss(model, x, y)

        fit(net, opt, batches, watched)
        jax.effects_barrier()
        by_device = {i: [] for i in range(8)}
        for device, rows in drawn:
            assert len(rows) == BATCH // 8
            by_device[device] += rows
        for device, rows in by_device.items():
            own = [*range(8 * device, 8 * device + 8)]
            # Two epochs, each in an order of its own.
            assert sorted(rows) == sorted(2 * own)
        assert by_device[0] != [x - 8 for x in by_device[1]]

    def test_resumed(self, kind):
        mesh, net, opt = self.start(kind)
        batches = jax.device_put(data(), NamedSharding(mesh, P("data")))
        whole = fit(net, opt, batches)
        _, net, opt = self.start(kind)
        key = {"batch_size": BATCH, "key": jax.random.key(2), "progress": False}
        for steps in (1, 3):
            net, opt, _ = eqxopt.fit(loss, net, opt, batches, steps=steps, **key)
        for a, b in zip(
            *map(jax.tree.leaves, eqx.filter((net, whole[0]), eqx.is_array))
        ):
            assert np.array_equal(a, b)


def test_data_on_a_mesh_and_a_model_on_none():
    """The model goes where the data is, and stays there: nothing compiles twice."""
    rows = NamedSharding(mesh_of("auto"), P("data"))
    step = eqxopt.make_step(loss)
    net, opt = model(), eqxopt.AdamW(0.01).init(model())
    batch = jax.device_put(data(), rows)
    for _ in range(2):
        net, opt, _ = step(net, opt, *batch)
    assert {x.num_devices for x in places(net, opt)} == {8}
    got = fit(model(), eqxopt.AdamW(0.01).init(model()), batch)
    assert {x.num_devices for x in places(*got[:2])} == {8}


def test_two_axes():
    """Rows over one axis, columns of weights over the other."""
    mesh = mesh_of("auto", (4, 2), ("data", "model"))
    put = lambda x: jax.device_put(x, NamedSharding(mesh, P("model")))
    net = model()
    net = eqx.tree_at(lambda m: m.layers[0].weight, net, replace_fn=put)
    opt = eqxopt.AdamW(0.01).init(net)
    before = places(net, opt)
    with pytest.raises(ValueError, match="Say over which the rows"):
        fit(net, opt, data())
    got = fit(net, opt, data(), batch_axes="data")
    assert got[0].layers[0].weight.sharding == before[0]
    one = fit(model(), eqxopt.AdamW(0.01).init(model()), data())
    assert_same_numbers(got[0], one[0])


def test_what_is_said_of_batches_that_do_not_divide():
    mesh = mesh_of("auto")
    net, opt = eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh)
    with pytest.raises(ValueError, match="batch_size=12 rows .* 8 devices"):
        fit(net, opt, data(), batch_size=12)
    x, y = data()
    batches = [(x, y), (x[:12], y[:12])] * 2
    with pytest.warns(UserWarning, match="batch of 12 rows .* 8 devices"):
        got = fit(net, opt, batches)
    one = fit(model(), eqxopt.AdamW(0.01).init(model()), batches)
    assert_same_numbers(got[0], one[0])


def test_mistakes():
    mesh = mesh_of("auto")
    with pytest.raises((ValueError, TypeError), match="'zero'"):
        eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh, "zero")
    with pytest.raises(ValueError, match="axes .*'data'.*not 'rows'"):
        eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh, axis="rows")
    net, opt = eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh)
    with pytest.raises(ValueError, match="no 'rows'"):
        fit(net, opt, data(), batch_axes="rows")
    with pytest.raises(ValueError, match="`eqxopt.shard`"):
        fit(model(), eqxopt.AdamW(0.01).init(model()), data(), batch_axes="data")


def test_an_optimizer_that_has_its_state():
    """It is moved, with what it has learned."""
    mesh = mesh_of("auto")
    opt = eqxopt.AdamW(0.01).init(model(), in_stacks=False)
    _, opt = opt.apply(eqx.filter(model(), eqx.is_inexact_array), model())
    _, moved = eqxopt.shard(model(), opt, mesh, "zero-1")
    assert moved.state.layers[0].weight.mu.sharding.spec == P("data", None)
    assert_same_numbers(moved, opt)
    assert moved.count == 1


def test_a_rate_that_is_changed():
    """Nothing is compiled for it, though the new number lies on one device."""
    mesh = mesh_of("auto")
    traces = []

    def counted(*args):
        traces.append(0)
        return loss(*args)

    step = eqxopt.make_step(counted)
    net, opt = eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh)
    batch = jax.device_put(data(), NamedSharding(mesh, P("data")))
    net, opt, _ = step(net, opt, *batch)
    once = len(traces)
    net, opt, _ = step(net, opt.replace(learning_rate=0.5), *batch)
    assert len(traces) == once


def matrices(mesh):
    """Several of two shapes, in shards of their rows, and of their columns if the mesh
    has a second axis."""
    names = mesh.axis_names
    shapes = [(64, 32)] * 3 + [(32, 32)] * 2
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        str(i): jax.device_put(jax.random.normal(k, s), NamedSharding(mesh, P(*names)))
        for i, (k, s) in enumerate(zip(keys, shapes))
    }


MESHES = {"rows": ((8,), ("data",)), "both": ((2, 4), ("data", "model"))}
every_mesh = pytest.mark.parametrize("shape", MESHES)


@every_kind
@every_mesh
@pytest.mark.parametrize("name", ["Muon", "NorMuon", "Scion"])
def test_each_matrix_moves_once(name, shape, kind):
    """Whatever its products are. All of one shape move together, there and back."""
    params = matrices(mesh_of(kind, *MESHES[shape]))
    opt = getattr(eqxopt, name)(0.01).init(params)
    step = jax.jit(lambda grads, params, opt: opt.apply(grads, params))
    compiled = step.lower(params, params, opt).compile()
    moves = [
        line
        for line in compiled.as_text().splitlines()
        if re.search(" (all-gather|all-to-all|collective-permute)(-start)?[(]", line)
        and ",1]" not in line  # the sums over rows of NorMuon
    ]
    axes, shapes = len(MESHES[shape][0]), 2
    assert 0 < len(moves) <= 2 * axes * shapes
    one = jax.tree.map(jnp.asarray, jax.device_get(params))
    expected, _ = opt.init(one).apply(one, one)
    assert_close(jax.device_get(compiled(params, params, opt)[0]), expected, 1e-4)


@every_kind
@pytest.mark.parametrize("name", ["Muon", "NorMuon", "Scion", "SOAP"])
def test_each_device_has_its_share_of_the_products(name, kind):
    key, rows = jax.random.key(0), NamedSharding(mesh_of(kind), P("data"))
    one = {
        str(i): jax.random.normal(jax.random.fold_in(key, i), (64, 64))
        for i in range(8)
    }

    def products(params):
        opt = getattr(eqxopt, name)(0.01).init(params)
        step = jax.jit(lambda grads, params, opt: opt.apply(grads, params))
        cost = step.lower(params, params, opt).compile().cost_analysis()
        return cost["flops"]

    assert products(jax.device_put(one, rows)) <= 0.2 * products(one)


@every_kind
@every_mesh
@pytest.mark.parametrize("name", ["SOAP", "Shampoo", "KLShampoo", "PSGDKron"])
def test_factors_lie_in_shards(name, shape, kind):
    """And stay there."""
    params = matrices(mesh_of(kind, *MESHES[shape]))
    opt = getattr(eqxopt, name)(0.01).init(params)
    state = jax.tree.leaves(opt.state)
    own = sum(x.addressable_shards[0].data.nbytes for x in state)
    assert own <= 0.2 * sum(x.nbytes for x in state)
    if shape == "rows":
        before = places(params, opt)
        net = params
        for _ in range(2):
            net, opt = opt.apply(net, net)
        assert places(net, opt) == before


@pytest.mark.parametrize("layout", ["data", "fsdp"])
def test_orbax_onto_another_mesh(layout, tmp_path):
    """Onto an eagerly made target, whose count and numbers lie on the mesh as well."""
    eight, four = mesh_of("auto"), jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    params = {"w": jnp.ones((16, 4)), "b": jnp.ones(3)}
    saved = eqxopt.shard(params, eqxopt.AdamW(0.1), eight, layout)
    saved = saved[1].apply(*[saved[0]] * 2)
    rows = NamedSharding(four, P("data"))
    fresh = {"w": jax.device_put(params["w"], rows)}
    fresh["b"] = jax.device_put(params["b"], NamedSharding(four, P()))
    target = fresh, eqxopt.AdamW(0.1).init(fresh, in_stacks=layout == "data")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "run", target)
    assert places(*restored) == places(*target)
    after = jax.jit(lambda p, o: o.apply(p, p))(*restored)
    assert_same_numbers(after, saved[1].apply(*[saved[0]] * 2))


def test_the_benchmark_trains_with_residuals():
    params = {"w": jnp.ones((4, 2))}
    assert _compiled(params, eqxopt.GaussNewton().init(params), residuals=True) == 1


def test_benchmark_of_devices(tmp_path):
    results = devices(["SGD"], [1])
    (row,) = results.updates
    assert row["compiled"] == 1
    # The sum of the losses, and nothing of the gradients.
    assert all(mode["bytes"] < 100 for mode in row["modes"].values())
    report.save({"devices": results}, tmp_path)
    lines = (tmp_path / "benchmarks-devices.md").read_text().splitlines()
    assert lines[0] == results.verdict() and "| SGD |" in "".join(lines)


@every_layout
def test_nothing_is_shared_and_what_was_donated_is_named(layout):
    """Without this a step with donated arrays ends the process on several devices."""
    mesh = mesh_of("auto")
    start = model()
    recipe = eqxopt.AdamW(1e-2)
    begun = recipe.init(start)
    step = eqxopt.make_step(loss)
    first = eqxopt.shard(start, recipe, mesh, layout)
    second = eqxopt.shard(start, begun, mesh, layout)
    *trained, _ = step(*first, *data())
    step(*trained, *data())
    for call in (step, eqxopt.make_step(loss)):
        with pytest.raises(ValueError, match="was given away: it was donated"):
            call(*first, *data())
    for x in jax.tree.leaves(eqx.filter((start, recipe, begun, second), eqx.is_array)):
        assert not x.is_deleted()
    *_, value = step(*second, *data())
    assert jnp.isfinite(value)
