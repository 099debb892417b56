"""Which steps are spikes, and that they leave no trace."""

import jax.numpy as jnp
import numpy as np
import pytest
from problems import nested_params
from training_loops import bits

import eqxopt


def is_spike(history, value, k, window):
    """As in OLMo-core, with what is not finite kept out."""
    last = np.asarray([x for x in history if np.isfinite(x)][-window:])
    if not np.isfinite(value):
        return True
    if len(last) < max(2, window // 2):
        return False
    return value - last.mean() > k * last.std(ddof=1)


@pytest.mark.parametrize("k, window", [(2.0, 6), (1.0, 3), (0.5, 2)])
@pytest.mark.parametrize("given", ["gradients", "losses", "both"])
def test_reference(k, window, given, x64):
    rng = np.random.default_rng(0)
    norms, losses = rng.gamma(2.0, size=40), rng.normal(size=40)
    norms[[7, 20]] = np.inf, np.nan
    losses[[9, 20]] = np.nan, np.inf
    if given == "losses":
        norms[:] = 1.0
    params = jnp.ones(1)
    opt = eqxopt.SkipOnSpike(eqxopt.SGD(0.1), k, window).init(params)
    skipped = 0
    for t in range(40):
        spike = is_spike(norms[:t], norms[t], k, window)
        if given != "gradients":
            spike |= is_spike(losses[:t], losses[t], k, window)
        value = None if given == "gradients" else losses[t]
        new, opt = opt.apply(jnp.asarray(norms[t : t + 1]), params, value=value)
        skipped += int(spike)
        assert (bits(new) == bits(params)) == spike
        assert (opt.skipped, opt.count) == (skipped, t + 1)
        params = new
    assert 3 < skipped < 30 and opt.optimizer.count == 40 - skipped


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("bad", [1e4, jnp.nan, jnp.inf])
def test_skipped_to_the_bit(bad, dtype):
    params = nested_params(dtype) | {"zero": jnp.asarray([-0.0, 0.0], dtype)}
    opt = eqxopt.SkipOnSpike(eqxopt.AdamW(0.1), window=4).init(params)
    for _ in range(3):
        params, opt = opt.apply(params, params, value=1.0)
    for times in range(1, 3):
        grads = params | {"scalar": jnp.asarray(bad, dtype)}
        new, new_opt = opt.apply(grads, params, value=1.0)
        assert bits(new) == bits(params)
        assert bits(new_opt.optimizer) == bits(opt.optimizer)
        assert (new_opt.skipped, new_opt.consecutive) == (1, 1)
    _, opt = new_opt.apply(params, params, value=1.0)
    assert (opt.skipped, opt.consecutive, opt.count) == (1, 0, 5)


def test_what_is_not_finite_is_forgotten():
    params = jnp.ones(2)
    opt = eqxopt.SkipOnSpike(eqxopt.SGD(0.1), window=8).init(params)
    for grad, loss in [(1.0, 1.0), (jnp.nan, 1.1), (1.0, jnp.inf), (1.1, 0.9)]:
        _, opt = opt.apply(jnp.full(2, grad), params, value=loss)
    assert opt.skipped == 2
    assert (opt.losses.seen, opt.gradient_norms.seen) == (3, 3)
    assert np.all(np.isfinite(opt.losses.values))
    _, opt = opt.apply(jnp.ones(2), params, value=1.0)
    assert opt.skipped == 2


def test_what_stays_high_is_no_spike():
    params = jnp.ones(())
    opt = eqxopt.SkipOnSpike(eqxopt.SGD(0.1), window=8).init(params)
    for loss in [1.0, 1.1, 0.9, 1.0, 1.0, 0.9, 1.1, 1.0, 9.0, 9.1, 9.0]:
        _, opt = opt.apply(jnp.ones(()), params, value=loss)
    assert opt.skipped == 1


@pytest.mark.parametrize("loss", [0.1, 1e-30, -3.3, 1e30])
def test_a_constant_is_no_spike(loss):
    """Though a mean of equal numbers need not be that number."""
    params = jnp.full((), 0.7)
    opt = eqxopt.SkipOnSpike(eqxopt.SGD(0.0), 0.0, window=5).init(params)
    for _ in range(12):
        _, opt = opt.apply(jnp.full((), 0.1), params, value=loss)
    assert opt.skipped == 0
    _, opt = opt.apply(jnp.full((), 0.2), params, value=loss)
    assert opt.skipped == 1


@pytest.mark.parametrize("window", [1, 0, True])
def test_a_window_too_short(window):
    with pytest.raises((TypeError, ValueError), match="window"):
        eqxopt.SkipOnSpike(eqxopt.SGD(0.1), window=window)
