"""NorMuon and Scion: what their numbers alone do not show."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def test_a_stack_of_normuon_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    opt = eqxopt.NorMuon(0.1, matrices="stack").init(stack)
    one = [eqxopt.NorMuon(0.1).init(x) for x in stack]
    expected = list(stack)
    for _ in range(3):
        stack, opt = opt.apply(stack, stack)
        for i, x in enumerate(expected):
            expected[i], one[i] = one[i].apply(x, x)
    np.testing.assert_allclose(stack, jnp.stack(expected), rtol=1e-12, atol=1e-12)


def test_a_stack_of_scion_is_its_matrices(x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    for norm in ("spectral", "sign"):
        opt = eqxopt.Scion(0.1, norm=norm, matrices="stack").init(stack)
        one = eqxopt.Scion(0.1, norm=norm).init(stack[0])
        expected = [one.apply(x, x)[0] for x in stack]
        got, _ = opt.apply(stack, stack)
        np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-12, atol=1e-12)


def test_rows_of_zeros(x64):
    """Dead neurons stay where they are, even without eps."""
    x = jnp.asarray([[1.0, 2.0], [0.0, 0.0], [0.5, -1.0]])
    updates, _ = eqxopt.NorMuon(0.1, eps=0.0, weight_decay=0.0).init(x).update(x, x)
    assert np.all(np.isfinite(updates)) and np.all(updates[1] == 0)
    updates, _ = eqxopt.NorMuon(0.1, eps=0.0).init(x).update(0 * x, 0 * x)
    np.testing.assert_array_equal(updates, 0.0)


def test_rows_are_evened_out(x64):
    """In the first step all rows have one size, and the whole has the norm of Muon's.
    Rows of a tall orthogonal matrix differ in size."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    ours, _ = eqxopt.NorMuon(1.0, weight_decay=0.0).init(x).update(x, x)
    muon, _ = eqxopt.Muon(1.0, nesterov=False).init(x).update(x, x)
    sizes = np.linalg.norm(ours, axis=1)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-6)
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(muon), rel=1e-10)


@pytest.mark.parametrize("norm, order", [("spectral", 2), ("sign", np.inf)])
def test_it_stays_in_the_ball(norm, order, x64):
    """Here all steps lead to its border."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    opt = eqxopt.Scion(
        0.5, 2.0, norm=norm, newton_schulz=eqxopt.NewtonSchulz("polar-express", 9)
    ).init(x)
    for _ in range(40):
        x, opt = opt.apply(-jnp.ones_like(x) - jnp.eye(3, 4), x)
    if norm == "spectral":
        assert np.linalg.norm(x, order) == pytest.approx(2 * np.sqrt(3 / 4), rel=1e-5)
    else:
        np.testing.assert_allclose(x, 2 / 4, rtol=1e-8)


def test_options_of_normuon():
    with pytest.raises(ValueError, match="`NewtonSchulz.*`steps` must be an integer"):
        eqxopt.NorMuon(0.1, newton_schulz=eqxopt.NewtonSchulz(steps=0))


def test_options_of_scion():
    with pytest.raises(ValueError, match="`norm` is one of 'spectral', 'sign'"):
        eqxopt.Scion(0.1, norm="frobenius")
    with pytest.raises(ValueError, match="`NewtonSchulz.*`steps` must be an integer"):
        eqxopt.Scion(0.1, newton_schulz=eqxopt.NewtonSchulz(steps=0))
