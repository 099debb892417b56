"""The noise of NoisySGD, which no other library draws alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def noises(opt, params, steps):
    """The noise at each step: without a gradient, a rate of 1 leaves nothing else."""
    grads = jax.tree.map(jnp.zeros_like, params)

    def step(opt, _):
        updates, opt = opt.update(grads, params)
        return opt, updates

    return jax.lax.scan(step, opt.init(params), length=steps)[1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.complex64])
def test_variance(dtype):
    opt = eqxopt.NoisySGD(1.0, eta=0.3, gamma=0.7, seed=1)
    drawn = np.asarray(noises(opt, jnp.zeros(100_000, dtype), 8))
    assert drawn.dtype == (np.complex64 if dtype == jnp.complex64 else np.float32)
    for count in (0, 3, 7):
        noise = drawn[count]
        variance = 0.3 / (1 + count) ** 0.7
        assert abs(np.mean(noise)) < 0.02 * np.sqrt(variance)
        np.testing.assert_allclose(np.mean(np.abs(noise) ** 2), variance, rtol=0.03)
        if np.iscomplexobj(noise):
            np.testing.assert_allclose(np.var(noise.real), variance / 2, rtol=0.03)


def test_noise_is_gaussian():
    noise = noises(eqxopt.NoisySGD(1.0, eta=1.0), jnp.zeros(100_000), 1)[0]
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545)):
        assert abs(float(jnp.mean(jnp.abs(noise) < bound)) - share) < 0.01


def test_parameters_and_steps_differ():
    drawn = noises(eqxopt.NoisySGD(1.0), {"a": jnp.zeros(9), "b": jnp.zeros(9)}, 4)
    rows = np.concatenate([drawn["a"], drawn["b"]])
    assert len(np.unique(rows)) == rows.size


def test_one_seed_one_run():
    params = jnp.zeros(9)
    for seed, same in ((3, jax.random.key(3)), (jax.random.PRNGKey(3), 3)):
        first = noises(eqxopt.NoisySGD(1.0, seed=seed), params, 4)
        again = noises(eqxopt.NoisySGD(1.0, seed=same), params, 4)
        np.testing.assert_array_equal(first, again)
    other = noises(eqxopt.NoisySGD(1.0, seed=4), params, 4)
    assert not np.any(np.asarray(first == other))


@pytest.mark.parametrize("kind", ["seeds", "keys"])
def test_vmap_over_seeds(kind):
    params = jnp.zeros(9)
    seeds = jnp.arange(5) if kind == "seeds" else jax.random.split(jax.random.key(0), 5)

    def run(seed):
        return noises(eqxopt.NoisySGD(1.0, seed=seed), params, 4)

    runs = np.asarray(jax.vmap(run)(seeds))
    assert len(np.unique(runs)) == runs.size
    np.testing.assert_array_equal(runs[2], run(seeds[2]))
