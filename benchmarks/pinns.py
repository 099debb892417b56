"""Physics-informed networks with about 1,000 parameters, in float64.

Poisson's equation on a square and the heat equation in one dimension, as in Müller and
Zeinhofer, "Achieving High Accuracy with PINNs via Energy Natural Gradient Descent",
2023. There a network has one hidden layer of width 32 or 64; here it has two of width
30, which makes 1,051 parameters.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

import eqxopt

from .curves import Curves, Method, trained


Point = Float[Array, "2"]
Network = Callable[[Point], Float[Array, ""]]


def along(u: Network, point: Point, direction: Point) -> tuple[Array, Array]:
    """The first and the second derivative of `u` in a direction, both forward."""
    first = lambda x: jax.jvp(u, (x,), (direction,))[1]
    return jax.jvp(first, (point,), (direction,))


class Equation(abc.ABC):
    """An equation on the unit square: 900 points inside, and 30 on each side that has a
    condition."""

    def __init__(self, per_side: int = 30):
        inside = jnp.linspace(0, 1, per_side + 2, dtype=float)[1:-1]
        ends = jnp.linspace(0, 1, per_side, dtype=float)
        shown = jnp.linspace(0, 1, 100, dtype=float)
        self.interior = grid(inside, inside)
        self.sides = [grid(ends, ends[:1]), grid(ends[:1], ends), grid(ends[-1:], ends)]
        self.sides += [grid(ends, ends[-1:])]
        self.shown = grid(shown, shown)

    @abc.abstractmethod
    def solution(self, point: Point) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def residual(self, u: Network, point: Point) -> Float[Array, ""]: ...

    @property
    @abc.abstractmethod
    def conditions(self) -> dict[str, Float[Array, "points 2"]]:
        """Where the solution is given."""

    def model(self, seed: int) -> eqx.nn.MLP:
        options = {"activation": jnp.tanh, "dtype": float, "key": jax.random.key(seed)}
        return eqx.nn.MLP(2, "scalar", width_size=30, depth=2, **options)

    def residuals(self, model: eqx.nn.MLP) -> PyTree[Float[Array, " points"]]:
        """Scaled so that their squares sum to the means over each set of points."""
        inside = eqxopt.rowwise(self.residual)(model, self.interior)
        every = {"equation": inside}
        for name, points in self.conditions.items():
            every[name] = eqxopt.rowwise(self.condition)(model, points)
        return {name: r / jnp.sqrt(len(r)) for name, r in every.items()}

    def condition(self, u: Network, point: Point) -> Float[Array, ""]:
        return u(point) - self.solution(point)

    def error(self, model: eqx.nn.MLP) -> Float[Array, ""]:
        """Relative, in L2."""
        exact = jax.vmap(self.solution)(self.shown)
        difference = jax.vmap(model)(self.shown) - exact
        return jnp.sqrt(jnp.sum(difference**2) / jnp.sum(exact**2))


class Poisson(Equation):
    r"""$-\Delta u = 2 \pi^2 \sin(\pi x) \sin(\pi y)$, with $u = 0$ on the boundary."""

    def solution(self, point: Point) -> Float[Array, ""]:
        return jnp.prod(jnp.sin(jnp.pi * point))

    def residual(self, u: Network, point: Point) -> Float[Array, ""]:
        second = lambda direction: along(u, point, direction)[1]
        laplacian = jnp.sum(jax.vmap(second)(jnp.eye(2)))
        return laplacian + 2 * jnp.pi**2 * self.solution(point)

    @property
    def conditions(self) -> dict[str, Float[Array, "points 2"]]:
        return {"boundary": jnp.concatenate(self.sides)}


class Heat(Equation):
    r"""$u_t = u_{xx} / 4$ from $\sin \pi x$, with $u = 0$ at both ends. A point is $(t,
    x)$."""

    def solution(self, point: Point) -> Float[Array, ""]:
        t, x = point
        return jnp.exp(-(jnp.pi**2) * t / 4) * jnp.sin(jnp.pi * x)

    def residual(self, u: Network, point: Point) -> Float[Array, ""]:
        in_t, in_x = jnp.eye(2)
        speed = jax.jvp(u, (point,), (in_t,))[1]
        return speed - along(u, point, in_x)[1] / 4

    @property
    def conditions(self) -> dict[str, Float[Array, "points 2"]]:
        low, start, _, high = self.sides
        return {"start": start, "ends": jnp.concatenate([low, high])}


def grid(first: Float[Array, " m"], second: Float[Array, " n"]) -> Float[Array, "mn 2"]:
    return jnp.stack(jnp.meshgrid(first, second), axis=-1).reshape(-1, 2)


def pinns(
    equation: type[Equation],
    *,
    seconds: float = 60,
    bar: float | None = None,
    per_side: int = 30,
    longest: int = 1,
) -> Curves:
    """Every method has as many seconds, but stops earlier if its steps are spent. The
    steps are such that a schedule can end: `longest` divides them, for a quick run."""
    steps = lambda most: max(1, most // longest)
    chunk = lambda usual: max(1, usual // longest)
    cosine = lambda rate, most: eqxopt.schedules.CosineDecay(rate, steps(most))
    search = eqxopt.GridLineSearch()
    with jax.enable_x64(True):
        methods = [
            Method(
                "Adam, cosine",
                eqxopt.Adam(cosine(5e-3, 20_000)),
                steps=steps(20_000),
                chunk=chunk(100),
            ),
            Method(
                "SOAP, cosine",
                eqxopt.SOAP(cosine(5e-3, 10_000), weight_decay=0.0),
                steps=steps(10_000),
                chunk=chunk(50),
            ),
            Method("LBFGS", eqxopt.LBFGS(), steps=steps(10_000), chunk=chunk(20)),
            Method("SSBroyden", eqxopt.SSBroyden(), steps=steps(5000), chunk=chunk(20)),
            Method(
                "GaussNewton, grid search",
                eqxopt.GaussNewton(damping=1e-10, linesearch=search),
                steps=steps(100),
                bar=bar,
            ),
            Method("LevenbergMarquardt", eqxopt.LevenbergMarquardt(), steps=steps(200)),
        ]
        times = tuple(t for t in (10.0, 30.0) if t < seconds)
        curves = Curves("relative L2 error", ("steps", "seconds"), times)
        problem = equation(per_side)
        for method in methods:
            runs = trained(problem, method, range(1), seconds)
            curves.runs.append((method, runs))
    return curves


def poisson() -> Curves:
    return pinns(Poisson, bar=1e-5)


def heat() -> Curves:
    return pinns(Heat)
