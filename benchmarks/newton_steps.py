"""A step of second order beside optimistix's, SciPy's and optax's, in float64.

The losses are cheap, and the first length that a search tries is accepted, so that the
times are those of the methods: a step of each has one evaluation. Ours, optimistix and
optax go on from a state after three steps. SciPy begins anew in each run.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import scipy.optimize
from jaxtyping import Array, Float

import eqxopt

from .peers import of_optax, of_optimistix, ours, Solver
from .timing import Figure, interleaved


SIZES = (500, 2000, 8000)
ROWS = 1000
BEFORE = 3


def quadratic(size: int):
    """A loss that is nearly quadratic, with curvatures from 1 to 3."""
    scales = jnp.linspace(1, 3, size, dtype=float)
    return lambda x: jnp.sum(scales * (jnp.sqrt(1 + x**2) - 1 + 0.5 * x**2))


def start(size: int) -> Float[Array, " size"]:
    return jax.random.normal(jax.random.key(0), (size,), dtype=float)


def network(size: int):
    """The residuals of a network of one hidden layer with about `size` parameters, at
    1,000 points in 8 dimensions."""
    width = size // 10
    x = jax.random.normal(jax.random.key(1), (ROWS, 8), dtype=float)
    y = jnp.sin(jnp.sum(x, axis=1))

    def residuals(params):
        inner = params[: 8 * width].reshape(8, width)
        bias, outer = params[8 * width : 9 * width], params[9 * width : 10 * width]
        return (jnp.tanh(x @ inner + bias) @ outer / width**0.5 - y) / ROWS**0.5

    return residuals


def derivative(residuals, x: Float[Array, " size"]) -> Float[Array, "rows size"]:
    """The Jacobian, by rows or by columns as ours, for SciPy."""
    if x.size <= ROWS:
        columns = lambda unit: jax.jvp(residuals, (x,), (unit,))[1]
        return jax.lax.map(columns, jnp.eye(x.size), batch_size=128).T
    _, vjp = jax.vjp(residuals, x)
    return jax.lax.map(lambda unit: vjp(unit)[0], jnp.eye(ROWS), batch_size=128)


class Stepper:
    """Makes `steps` steps in each call, from the carry that `restart` restores.

    The carry is that after some steps, so that nothing is a first time.
    """

    def __init__(self, solver: Solver, *, steps: int):
        step = lambda carry: solver.step(carry).carry
        self.step, self.steps = jax.jit(step, donate_argnums=0), steps
        self.kept = jax.tree.map(jnp.copy, solver.carry)
        for _ in range(BEFORE):
            self.kept = self.step(self.kept)

    def restart(self) -> None:
        self.carry = jax.block_until_ready(jax.tree.map(jnp.copy, self.kept))

    def __call__(self) -> Any:
        for _ in range(self.steps):
            self.carry = self.step(self.carry)
        return self.carry


def beside(what: str, own: Stepper, peer: Any, *, repeats: int) -> Figure:
    def restart():
        for stepper in (own, peer):
            if isinstance(stepper, Stepper):
                stepper.restart()

    return interleaved(
        what,
        own,
        peer,
        bar=1.0,
        per=own.steps,
        repeats=repeats,
        warm_up=min(2, repeats // 2),
        before=restart,
    )


def bfgs(size: int, *, steps: int, repeats: int) -> list[Figure]:
    loss, x = quadratic(size), start(size)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    opt = eqxopt.BFGS()
    own = Stepper(ours(opt, loss, x), steps=steps)
    what = f"BFGS, {size:,} parameters, {megabytes(opt, x)}"
    theirs = Stepper(of_optimistix(optx.BFGS(rtol=0, atol=0), loss, x), steps=steps)
    figures = [beside(f"{what}: optimistix", own, theirs, repeats=repeats)]
    del theirs

    def by_scipy():
        options = {"maxiter": steps, "gtol": 0}
        counted = lambda x: [np.asarray(part) for part in value_and_grad(x)]
        scipy.optimize.minimize(
            counted, np.asarray(x), jac=True, method="BFGS", options=options
        )

    # It multiplies matrices: a step would take minutes.
    if size < 5000:
        figures.append(beside(f"{what}: SciPy", own, by_scipy, repeats=repeats))
    return figures


def lbfgs(size: int, *, steps: int, repeats: int) -> list[Figure]:
    loss, x = quadratic(size), start(size)
    opt = eqxopt.LBFGS()
    own = Stepper(ours(opt, loss, x), steps=steps)
    theirs = Stepper(of_optax(optax.lbfgs(), loss, x), steps=steps)
    what = f"LBFGS, {size:,} parameters, {megabytes(opt, x)}: optax"
    return [beside(what, own, theirs, repeats=repeats)]


def levenberg_marquardt(size: int, *, steps: int, repeats: int) -> list[Figure]:
    residuals, x = network(size), start(size)
    loss = lambda x: 0.5 * jnp.sum(jnp.square(residuals(x)))
    opt = eqxopt.LevenbergMarquardt()
    own = Stepper(ours(opt, loss, x, residuals), steps=steps)
    what = f"LevenbergMarquardt, {size:,} parameters, {megabytes(opt, x)}"
    solver = optx.LevenbergMarquardt(rtol=0, atol=0)
    figures = []
    # For 8,000 it asks for 103 GB.
    if size < 5000:
        theirs = Stepper(of_optimistix(solver, residuals, x), steps=steps)
        figures.append(beside(f"{what}: optimistix", own, theirs, repeats=repeats))
        del theirs
    values, jacobian = jax.jit(residuals), jax.jit(lambda x: derivative(residuals, x))

    def by_scipy():
        # "lm" of SciPy needs as many residuals as parameters.
        scipy.optimize.least_squares(
            lambda x: np.asarray(values(x)),
            np.asarray(x),
            lambda x: np.asarray(jacobian(x)),
            method="lm" if size <= ROWS else "trf",
            max_nfev=steps + 1,
            **dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15),
        )

    figures.append(beside(f"{what}: SciPy", own, by_scipy, repeats=repeats))
    return figures


def megabytes(opt, x) -> str:
    state = jax.eval_shape(opt.init, x)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return f"{size / 1e6:.3g} MB"


def newton_steps(sizes: tuple[int, ...] = SIZES, *, repeats: int = 20) -> list[Figure]:
    """With fewer repeats where a step of a peer takes a second or a minute."""
    few = {500: repeats, 2000: repeats // 4}
    figures = []
    with jax.enable_x64(True):
        for size in sizes:
            figures += lbfgs(size, steps=20, repeats=repeats)
        for size in sizes:
            times = repeats if size < 5000 else repeats // 2
            figures += bfgs(size, steps=5, repeats=times)
        for size in sizes:
            times, steps = few.get(size, 3), 3 if size < 1000 else 2
            figures += levenberg_marquardt(size, steps=steps, repeats=times)
    return figures
