"""Small landscapes, each hard in its own way, and when an optimizer has won.

All are functions of two matrices and the step, so that one compiled program trains on
any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp


CURVATURES = jnp.geomspace(1.0, 100.0, 16)
TARGET = jax.random.normal(jax.random.key(0), (4, 2)) @ jax.random.normal(
    jax.random.key(1), (2, 4)
)


def flat(params):
    return jnp.concatenate([params["u"].reshape(-1), params["v"].reshape(-1)])


def quadratic(params, step):
    """An ill-conditioned bowl."""
    return 0.5 * jnp.sum(CURVATURES * flat(params) ** 2)


def rosenbrock(params, step):
    """Eight bent valleys side by side."""
    a, b = params["u"].reshape(-1), params["v"].reshape(-1)
    return jnp.sum((1 - a) ** 2 + 100 * (b - a**2) ** 2)


def saddle(params, step):
    """Two minima for every entry, and a saddle right at the start."""
    x = flat(params)
    return jnp.sum((x**2 - 1) ** 2) / 4


def noise(step):
    return jax.random.normal(jax.random.fold_in(jax.random.key(2), step), (16,))


def noisy(params, step):
    """A bowl whose gradient is seen through noise."""
    x = flat(params)
    return 0.5 * jnp.sum(x**2) + 0.5 * jnp.sum(noise(step) * x)


def factorization(params, step):
    """A matrix of rank 2 from its factors, whose scales are free."""
    return 0.5 * jnp.sum((params["u"] @ params["v"] - TARGET) ** 2)


def rosenbrock_residuals(params, step):
    a, b = params["u"].reshape(-1), params["v"].reshape(-1)
    return jnp.concatenate([1 - a, 10 * (b - a**2)]) * 2**0.5


@dataclass(frozen=True)
class Landscape:
    """The loss, as a number and up to a constant as residuals, where to start, and the
    loss at which an optimizer has won."""

    loss: Callable
    residuals: Callable
    start: float
    won: float


LANDSCAPES = {
    "quadratic": Landscape(
        quadratic, lambda p, _: CURVATURES**0.5 * flat(p), 1.0, 0.01
    ),
    "rosenbrock": Landscape(rosenbrock, rosenbrock_residuals, 0.0, 0.1),
    "saddle": Landscape(saddle, lambda p, _: (flat(p) ** 2 - 1) / 2**0.5, 1e-3, 0.01),
    "noisy": Landscape(noisy, lambda p, i: flat(p) + noise(i) / 2, 3.0, 0.3),
    "factorization": Landscape(
        factorization, lambda p, _: (p["u"] @ p["v"] - TARGET).reshape(-1), 0.3, 0.01
    ),
}


def start(landscape):
    """Entries around the place where the landscape begins, all of them different."""
    keys = jax.random.split(jax.random.key(3))
    size = max(LANDSCAPES[landscape].start, 1e-3)
    away = lambda key, shape: (
        LANDSCAPES[landscape].start + 0.1 * size * (jax.random.normal(key, shape))
    )
    return {"u": away(keys[0], (4, 2)), "v": away(keys[1], (2, 4))}


def trained(make, landscape, rate, steps):
    """The loss, without noise, after training by `make(rate)`."""
    losses = [x.loss for x in LANDSCAPES.values()]
    residuals = [x.residuals for x in LANDSCAPES.values()]
    starts = [start(name) for name in LANDSCAPES]
    params = jax.tree.map(lambda *x: jnp.stack(x)[landscape], *starts)

    def body(step, carry):
        params, opt = carry
        value_fn = lambda params: jax.lax.switch(landscape, losses, params, step)
        value, grads = jax.value_and_grad(value_fn)(params)
        residual_fn = lambda p: jax.lax.switch(landscape, residuals, p, step)
        return opt.apply(
            grads, params, value=value, value_fn=value_fn, residual_fn=residual_fn
        )

    carry = (params, make(rate).init(params))
    params, opt = jax.lax.fori_loop(0, steps, body, carry)
    quiet = [*losses[:3], lambda p, _: 0.5 * jnp.sum(flat(p) ** 2), losses[4]]
    return jax.lax.switch(landscape, quiet, opt.eval_params(params), 0)
