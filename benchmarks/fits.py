"""A small network fits a curve: how exact it gets with 2,000 gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import eqxopt

from .curves import Curves, Method, trained


class Sine:
    """sin 6x at 64 points, by a 1-20-20-1 tanh network: 480 parameters, and the bias of
    the output. The loss is half the mean square of the residuals."""

    def __init__(self):
        self.x = jnp.linspace(-1, 1, 64, dtype=float)
        self.y = jnp.sin(6 * self.x)

    def model(self, seed: int) -> eqx.nn.MLP:
        sizes = {
            "in_size": "scalar",
            "out_size": "scalar",
            "width_size": 20,
            "depth": 2,
        }
        key = jax.random.key(seed)
        return eqx.nn.MLP(**sizes, activation=jnp.tanh, dtype=float, key=key)

    def residuals(self, model: eqx.nn.MLP) -> Float[Array, "64"]:
        return (jax.vmap(model)(self.x) - self.y) / jnp.sqrt(len(self.x))

    def error(self, model: eqx.nn.MLP) -> Float[Array, ""]:
        return 0.5 * jnp.sum(jnp.square(self.residuals(model)))


def fits(*, evaluations: int = 2000, damped_steps: int = 100, seeds: int = 3) -> Curves:
    """Each has as many evaluations, but Levenberg-Marquardt, whose steps also need the
    Jacobian."""
    rate = eqxopt.schedules.CosineDecay(1e-2, evaluations)
    full = {"steps": evaluations, "evaluations": evaluations}
    methods = [
        Method("Adam, cosine", eqxopt.Adam(rate), **full, chunk=evaluations // 50),
        Method("LBFGS", eqxopt.LBFGS(), **full, chunk=10),
        Method("BFGS", eqxopt.BFGS(), **full, chunk=10, bar=1e-7),
        Method("SSBFGS", eqxopt.SSBFGS(), **full, chunk=10),
        Method("SSBroyden", eqxopt.SSBroyden(), **full, chunk=10, bar=1e-11),
        Method(
            "LevenbergMarquardt",
            eqxopt.LevenbergMarquardt(),
            steps=damped_steps,
            bar=1e-7,
        ),
    ]
    with jax.enable_x64(True):
        problem, curves = Sine(), Curves("loss", ("evaluations", "seconds"))
        for method in methods:
            runs = trained(problem, method, range(seeds))
            curves.runs.append((method, runs))
    return curves
