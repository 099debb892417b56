"""The data that `fit` takes, and the data that it names."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_loops import arrays, assert_equal

import eqxopt


KEY = jax.random.key(0)


def loss_fn(x, rows, scale=1.0):
    return x * jnp.mean(rows * scale)


def started():
    x = jnp.zeros(())
    return x, eqxopt.SGD(1.0).init(x)


def trained(batches, loss=loss_fn, **options):
    x, _, history = eqxopt.fit(loss, *started(), batches, **options)
    return float(x), len(history.loss)


class Tensor:
    """What a framework for tensors gives: NumPy can read it."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class Loader:
    """A data loader: it has a length, and each iteration is a new epoch."""

    def __len__(self):
        return 3

    def __iter__(self):
        for _ in range(3):
            yield [Tensor([1.0, 3.0]), Tensor(2.0)]


class TestIterables:
    def test_a_loader_of_lists_of_tensors(self):
        assert trained(Loader()) == (-12.0, 3)

    @pytest.mark.parametrize(
        "batch",
        [
            [np.ones(2), np.float32(2)],
            (jnp.ones(2), 2.0),
            (np.ones(2, np.int64), 2),
            (np.ones(2, ">f4"), np.asarray(2, ">f4")),
            [[jnp.ones(())], 2.0],
        ],
    )
    def test_what_numpy_can_read(self, batch):
        loss = lambda x, rows, scale: x * jnp.mean(jnp.stack(rows) * scale)
        loss = loss if isinstance(batch[0], list) else loss_fn
        assert trained([batch] * 2, loss) == (-4.0, 2)

    def test_a_torch_loader(self):
        torch = pytest.importorskip("torch")
        data = torch.utils.data.TensorDataset(torch.ones(8, 3), torch.full((8,), 2.0))
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        loss = lambda x, a, b: x * (jnp.mean(a) + jnp.mean(b))
        assert trained(loader, loss) == (-6.0, 2)

    def test_random_keys(self):
        keys = list(jax.random.split(KEY, 2))
        draws = sum(float(jax.random.normal(key)) for key in keys)
        x, _ = trained(keys, lambda x, key: x * jax.random.normal(key))
        np.testing.assert_allclose(x, -draws, rtol=1e-6)

    @pytest.mark.parametrize("batch", [(), None])
    def test_batches_without_arrays(self, batch):
        assert trained([batch] * 3, lambda x, *_: x) == (-3.0, 3)

    @pytest.mark.parametrize(
        "batch, name",
        [("text", "str"), (object(), "object"), (np.array("2020", "M8"), "ndarray")],
    )
    def test_what_is_no_number_is_named(self, batch, name):
        with pytest.raises(TypeError, match=rf"batch has a `{name}` at \[1\]"):
            trained([(1.0, 1.0), (1.0, batch)])

    def test_every_change_of_shape_is_trained_once(self):
        """And one program does for all stacks of one shape."""
        traces = 0

        def counted(x, rows):
            nonlocal traces
            traces += 1
            return loss_fn(x, rows)

        lengths = [3, 3, 2, 3, 1, 1, 1, 2, 3, 3, 3]
        assert trained([np.ones(n) for n in lengths], counted) == (-11.0, 11)
        assert traces == len(set(lengths))

    def test_large_batches_are_not_stacked_at_once(self, monkeypatch):
        import eqxopt._training._batches as batches

        monkeypatch.setattr(batches, "_BYTES", 100)
        longest = []
        stacked = batches._stacked
        monkeypatch.setattr(
            batches,
            "_stacked",
            lambda some, length: longest.append(length) or stacked(some, length),
        )
        assert trained([np.ones(10, np.float32)] * 9) == (-9.0, 9)
        assert set(longest) == {2}
        longest.clear()
        assert trained([np.ones(50, np.float32)] * 3) == (-3.0, 3)
        assert set(longest) == {1}

    def test_fewer_batches_than_steps(self):
        with pytest.raises(ValueError, match="3 batches for steps=5.*cycle"):
            trained(Loader(), steps=5)
        with pytest.warns(UserWarning, match="made 3 of 5 steps"):
            assert trained(iter(Loader()), steps=5)[1] == 3
        assert trained(itertools.cycle(Loader()), steps=5)[1] == 5

    def test_data_in_memory_without_a_batch_size(self):
        class Data(eqx.Module):
            rows: jax.Array

        rows = np.ones((4, 2))
        for data in (rows, jnp.asarray(rows), (rows, rows), {"a": rows}, Data(KEY)):
            with pytest.raises(ValueError, match="needs a `batch_size`"):
                trained(data)
        with pytest.raises(ValueError, match="needs a `batch_size`"):
            trained(Tensor(rows))
        with pytest.raises(TypeError, match="a `int` is no iterable"):
            trained(3)


class TestInMemory:
    def test_each_row_once_an_epoch(self):
        rows = np.arange(10.0)
        noted = lambda x, rows: (x * 0, {str(i): rows[i] for i in range(3)})
        *_, history = eqxopt.fit(
            noted, *started(), rows, batch_size=3, key=KEY, steps=9, has_aux=True
        )
        seen = np.stack([history.aux[str(i)] for i in range(3)], axis=1)
        epochs = seen.reshape(3, 9)
        assert all(len(np.unique(epoch)) == 9 for epoch in epochs)
        assert not np.array_equal(epochs[0], epochs[1])

    def test_any_pytree(self):
        data = {"rows": [1.0, 2.0]}  # two single numbers
        with pytest.raises(ValueError, match="single number"):
            trained(data, batch_size=1, key=KEY)
        data = [Tensor([1.0, 2.0]), np.ones(2)]
        assert trained(data, batch_size=1, key=KEY) == (-3.0, 2)

    def test_all_rows_in_their_order(self):
        """A full batch needs no key, but may have one, and is not gathered in every
        step."""
        first = lambda x, rows: x * rows[0]
        assert trained(np.arange(1.0, 5.0), first, batch_size=4, steps=3) == (-3.0, 3)
        assert trained(np.arange(1.0, 5.0), first, batch_size=4, key=KEY) == (-1.0, 1)

    def test_no_data(self):
        assert trained(None, lambda x: 2 * x, steps=3) == (-6.0, 3)
        with pytest.raises(ValueError, match="needs the number of `steps`"):
            trained(None, lambda x: x)
        with pytest.raises(ValueError, match="and no `batch_size`"):
            trained(None, lambda x: x, steps=3, batch_size=4)

    def test_options(self):
        for options in ({"batch_size": 3}, {"batch_size": 9, "key": KEY}):
            with pytest.raises(ValueError, match="a `key`, and a `batch_size` from 1"):
                trained(np.ones(4), **options)
        with pytest.raises(ValueError, match="steps=-5"):
            trained(np.ones(4), batch_size=2, key=KEY, steps=-5)
        assert trained(np.ones(4), batch_size=2, key=KEY, steps=0) == (0.0, 0)
        with pytest.raises(TypeError, match="data has a `Loader` at its root"):
            trained(Loader(), batch_size=2, key=KEY)

    def test_the_order_depends_on_the_batches_taken(self):
        """Under an optimizer whose count moves slower, too."""
        x = jnp.zeros(())
        opt = eqxopt.Accumulate(eqxopt.SGD(1.0), every=3).init(x)
        noted = lambda x, row: (x * row[0], {"row": row[0]})
        options = {"batch_size": 1, "key": KEY, "has_aux": True}
        data = np.arange(8.0)
        whole = eqxopt.fit(noted, x, opt, data, steps=20, **options)
        parts = [(x, opt, None)]
        for steps in (5, 1, 14):
            parts.append(
                eqxopt.fit(noted, *parts[-1][:2], data, steps=steps, **options)
            )
        rows = [history.aux["row"] for *_, history in parts[1:]]
        np.testing.assert_array_equal(np.concatenate(rows), whole[2].aux["row"])
        assert_equal(arrays(parts[-1][:2]), arrays(whole[:2]))


def test_nothing_crosses_to_the_device_unasked():
    """Under JAX's guard against transfers, with numbers and keys on the device."""
    rows = jnp.arange(8.0)
    draw = lambda x, rows, key: x * jnp.mean(rows) * jax.random.normal(key)
    x, opt = started()
    with jax.transfer_guard("disallow"):
        eqxopt.fit(draw, x, opt, rows, batch_size=2, key=KEY)
        eqxopt.fit(draw, x, opt, [rows, rows], key=KEY)


def test_a_second_call_compiles_nothing():
    traces = 0

    def counted(x, rows):
        nonlocal traces
        traces += 1
        return loss_fn(x, rows)

    options = {"batch_size": 2, "key": KEY}
    for steps in (3, 7, 60):
        trained(np.ones(6), counted, steps=steps, **options)
        trained([np.ones(3)] * steps, counted)
    assert traces == 2
