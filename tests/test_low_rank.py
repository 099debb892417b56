"""GaLore and APOLLO: their projections, and GaLore beside optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Model, nested_params
from training_loops import assert_close, trained, trained_by_optax

import eqxopt
from eqxopt._matrices.apollo import projection


def axes(params):
    """All axes after the first are inputs."""
    numbers = optax.contrib.GaLoreDimensionNumbers
    return jax.tree.map(
        lambda x: numbers(0, tuple(range(1, x.ndim))) if x.ndim > 1 else None, params
    )


@pytest.mark.parametrize(
    "options", [{}, {"rank": 2, "update_proj_gap": 6, "scale": 0.5}]
)
def test_galore_of_optax(options):
    """It is exact to float32. Its Adam is the fallback, which it does not scale."""
    fallback = eqxopt.AdamW(0.02, weight_decay=0.1)
    opt = eqxopt.GaLore(0.02, weight_decay=0.1, fallback=fallback, **options)
    tx = optax.contrib.galore(
        0.02, weight_decay=0.1, weight_dimension_numbers=axes, **options
    )
    *_, (_, got) = trained(opt, nested_params())
    *_, (_, expected) = trained_by_optax(tx, nested_params())
    assert_close(got, expected, rtol=2e-4, atol=2e-4)


def test_projections_of_apollo_differ_and_keep_lengths():
    x = {"a": jnp.ones((3, 40)), "b": jnp.ones((3, 40))}
    _, opt = eqxopt.APOLLO(0.1).init(x).apply(x, x)
    assert not np.array_equal(opt.state["a"].key, opt.state["b"].key)
    p = projection(opt.state["a"].key, jnp.ones((1, 3, 40)), 10_000)[0]
    np.testing.assert_allclose(p.T @ p, np.eye(3), atol=0.05)


def test_apollo_draws_every_seventh_step():
    params = jnp.ones((3, 4))
    opt = eqxopt.APOLLO(0.1, rank=2, update_proj_gap=7).init(params)
    keys = []
    for _ in range(25):
        params, opt = opt.apply(params, params)
        keys.append(np.asarray(opt.state.key))
    changes = [i for i in range(1, 25) if not np.array_equal(keys[i], keys[i - 1])]
    assert changes == [7, 14, 21]


def test_memory():
    galore = eqxopt.GaLore(0.1, rank=2).init(Model()).state
    assert galore.layers[0].weight.projection.shape == (1, 2, 4)
    assert galore.layers[0].weight.mu.shape == (1, 2, 3)
    assert galore.layers[0].bias is None
    apollo = eqxopt.APOLLO(0.1, rank=2).init(Model()).state
    assert apollo.layers[0].weight.mu.shape == (1, 2, 4)
    assert apollo.layers[1].weight.mu.shape == (1, 2, 4)
    assert apollo.layers[0].bias is None


def test_a_first_gradient_of_galore_may_come_late():
    x = {"a": jnp.eye(3), "b": jnp.eye(3)}
    opt = eqxopt.GaLore(0.1, rank=1).init(x)
    x, opt = opt.apply({"a": x["a"], "b": None}, x)
    new, _ = opt.apply(x, x)
    assert not np.array_equal(new["b"], x["b"])


def test_a_first_gradient_of_zero_does_not_limit_apollo():
    x = jnp.ones((3, 4))
    opt = eqxopt.APOLLO(0.1, rank=2).init(x)
    x, opt = opt.apply(0 * x, x)
    new, _ = opt.apply(x, x)
    assert np.max(np.abs(new - x)) > 1e-3


def test_options_of_galore():
    with pytest.raises(ValueError, match=r"`GaLore\(rank=0\)`: `rank` must be an int"):
        eqxopt.GaLore(0.1, rank=0)
    with pytest.raises(ValueError, match="`update_proj_gap` must be an integer"):
        eqxopt.GaLore(0.1, update_proj_gap=0)


def test_options_of_apollo():
    with pytest.raises(ValueError, match="'channel', 'tensor'"):
        eqxopt.APOLLO(0.1, scale_type="row")
    with pytest.raises(ValueError, match=r"`rank` must be an integer"):
        eqxopt.APOLLO(0.1, rank=0)
