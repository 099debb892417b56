"""JAX's checks for infinities and NaNs find none of ours."""

import jax
import jax.numpy as jnp
import pytest
from cases import each, OPTIMIZERS, TRANSFORMS, WRAPPERS

import eqxopt


CASES = {
    name: case.make for name, case in (OPTIMIZERS | TRANSFORMS | WRAPPERS).items()
} | {
    "LBFGS search": lambda: eqxopt.LBFGS(),
    "LBFGS backtracking": lambda: eqxopt.LBFGS(
        linesearch=eqxopt.BacktrackingLineSearch()
    ),
    "plateau of means": lambda: eqxopt.ReduceOnPlateau(
        eqxopt.SGD(0.1), accumulation_size=3
    ),
    "Join": lambda: eqxopt.SGD(
        eqxopt.schedules.Join([eqxopt.schedules.Linear(0.1, 0.2, 3), 0.1], [3])
    ),
}


@pytest.fixture
def flags():
    with jax.debug_infs(True), jax.debug_nans(True):
        yield


@pytest.mark.parametrize("name", each(CASES))
def test_no_infinity_and_no_nan(name, flags):
    params = {"w": jnp.full((3, 2), 0.5), "b": jnp.ones(3)}
    loss = lambda p: jnp.sum(jnp.square(p["w"])) + jnp.sum(jnp.square(p["b"]))
    residuals = lambda p: jax.tree.map(lambda x: 2**0.5 * x, p)
    known = {"value_fn": loss, "residual_fn": residuals}
    opt = CASES[name]().init(params)
    for _ in range(4):
        value, grads = jax.value_and_grad(loss)(params)
        if isinstance(opt, eqxopt.LBFGS):
            value, grads = opt.value_and_grad(loss, params)
        if isinstance(opt, eqxopt.AbstractOptimizer):
            opt.update(grads, params, value=value, **known)
            params, opt = opt.apply(grads, params, value=value, **known)
            opt.eval_params(params)
        else:
            _, opt = opt.update(grads, params)
        opt.hyperparameters()
        repr(opt)
    eqxopt.describe(opt, params)
