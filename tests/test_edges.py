"""Numbers at the edges: counts at their end, huge gradients, decays and eps of 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIMIZERS, TRANSFORMS, WRAPPERS
from problems import small_params
from training_loops import last_step, step


LAST = np.iinfo(np.int32).max


def is_finite(tree):
    return all(np.all(np.isfinite(np.asarray(x))) for x in jax.tree.leaves(tree))


def counted_to(count, opt):
    """The optimizer with every count that it keeps, however deep, at `count`."""
    set_count = lambda x: jnp.full_like(x, count) if x.dtype == jnp.int32 else x
    return jax.tree.map(set_count, opt)


def filled(params, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), params)


def with_zeros(opt, *names):
    """The optimizer with each hyperparameter of these names at 0 where it may be."""
    for name in opt.hyperparameters():
        if name.split(".")[-1].startswith(names):
            try:
                opt = opt.replace(**{name: 0.0})
            except ValueError:  # it has to be positive
                pass
    return opt


EPS = "eps", "graft_eps", "min_norm", "init_sq"
DECAYS = "b1", "b2", "b3", "beta", "beta2", "decay", "rho", "momentum", "shampoo_beta"
# With a gradient of 0, these still move a parameter: by noise, towards 0, or to where
# their start at more than 0 points.
RESTLESS = {"Fromage", "NoisySGD", "Scion", "Yogi"}


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    """All of it runs in one program."""

    def test_counts_stay_at_the_largest(self, name):
        grads = small_params(seed=1)
        for count in LAST - 1, LAST:
            params = small_params()
            opt = counted_to(count, OPTIMIZERS[name].make().init(params))
            for _ in range(2):
                params, opt = step(opt, params, grads)
                assert is_finite(params) and is_finite(opt)
                assert opt.count == LAST
                counts = [x for x in jax.tree.leaves(opt) if x.dtype == jnp.int32]
                assert all(np.all(x >= 0) for x in counts)

    @pytest.mark.parametrize("size", [1e25, 1e38])
    def test_huge_gradients(self, name, size):
        """One of them spoils neither the state nor what follows."""
        params = small_params()
        opt = OPTIMIZERS[name].make().init(params)
        signs = jax.tree.map(jnp.sign, small_params(seed=1))
        for scale in size, 1.0, 1.0:
            grads = jax.tree.map(lambda x: scale * x, signs)
            params, opt = step(opt, params, grads)
            assert not any(np.any(np.isnan(x)) for x in jax.tree.leaves((params, opt)))
        assert is_finite(opt.state)

    def test_eps_of_zero(self, name):
        """Where a gradient was always 0, nothing moves."""
        params = small_params()
        opt = with_zeros(OPTIMIZERS[name].make().init(params), *EPS, "weight_decay")
        for grads in filled(params, 0.0), small_params(seed=1):
            grads["vector"] = jnp.zeros(3)
            after, opt = step(opt, params, grads)
            assert is_finite(after) and is_finite(opt)
            if name not in RESTLESS:
                np.testing.assert_array_equal(after["vector"], params["vector"])
            params = after


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers(name):
    """Their counts stay at the largest, and huge gradients pass."""
    grads = small_params(seed=1)
    for count in LAST - 1, LAST:
        params = small_params()
        opt = counted_to(count, WRAPPERS[name].make().init(params))
        for _ in range(2):
            params, opt = step(opt, params, grads)
            assert is_finite(params)
            counts = [x for x in jax.tree.leaves(opt) if x.dtype == jnp.int32]
            assert all(np.all(x >= 0) for x in counts)
    params = small_params()
    opt = WRAPPERS[name].make().init(params)
    for scale in 1e25, 1.0, 1.0:
        grads = jax.tree.map(lambda x: scale * jnp.sign(x), small_params(seed=1))
        params, opt = step(opt, params, grads)
        assert not any(np.any(np.isnan(x)) for x in jax.tree.leaves((params, opt)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
    params, grads = small_params(), small_params(seed=1)
    transform = counted_to(LAST - 1, TRANSFORMS[name].make().init(params))
    for _ in range(2):
        params, transform = last_step(transform, params, grads)
        assert is_finite(params) and transform.count == LAST
