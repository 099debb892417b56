"""Many training runs at once."""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._tree import array_leaves
from ._compiled_step import CompiledStep
from ._lanes import new_population
from ._loss import check_key, takes_key
from ._plan import Plan
from ._points import listed, Make, optimizer_at, Point, Points, stacked
from ._population import Population
from ._program import ProgramOf, read_now
from ._source import Source, source_of
from ._sweep_result import Sweep


def sweep(
    loss_fn: Callable[..., Any],
    make_model: Callable[[PRNGKeyArray], Any],
    make: Make,
    points: Points,
    batches: Iterable[Any] | PyTree = None,
    *,
    key: PRNGKeyArray,
    seeds: int | Sequence[int] = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    evaluate: Callable[..., Any] | None = None,
    maximize: bool = False,
    has_state: bool = False,
    has_aux: bool = False,
    residuals: bool = False,
    rungs: int = 1,
    keep: float | int = 1 / 3,
    chunk_size: int | None = None,
    steps_per_call: int = 50,
    progress: bool = True,
) -> Sweep:
    """Trains a model for every point of a grid and every seed, side by side in one
    compiled program, and compares them.

    Each run is what [`fit`][eqxopt.fit] makes of it, up to rounding. Hyperparameters
    are arrays, so points that differ in numbers share a program; others, such as
    different optimizers, get one each. A run that diverges harms no other.

    **Arguments:**

    - `loss_fn`, `batches`, `batch_size`, `has_aux`, `residuals`: as for
        [`fit`][eqxopt.fit]. From an iterable, all runs get the same batches at the
        same time.
    - `make_model`: makes a model from a random key; with `has_state` a model and its
        state, as `equinox.nn.make_with_state` does. It is called under `jax.vmap`
        and `jax.jit`.
    - `make`: called as `make(**point)`, gives an optimizer, wrapped or not. Such as
        `eqxopt.AdamW`.
    - `points`: a dictionary from names to the values of a grid. Or a list of points,
        each a dictionary, such as [`eqxopt.random_points`][] gives. Values can be
        anything that `make` takes.
    - `key`: the random key. `model_key, run_key = jax.random.split(
        jax.random.fold_in(key, seed))` are the key for `make_model` and the one that
        `fit` would get. So points share their models and batches.
    - `seeds`: how many runs a point gets, or a list of their seeds. Default 1.
    - `steps`: the number of steps of a run. Default: as for `fit`.
    - `evaluate`: called as `evaluate(model)`, or with a state as `evaluate(model,
        state)`, gives the score of a run, a scalar. It sees the parameters for
        evaluation, as `opt.eval_params` gives them, and is compiled. Default: the mean
        loss over the last tenth of the steps.
    - `maximize`: whether larger scores are better. Default `False`.
    - `has_state`: whether `make_model` gives a state. Default `False`.
    - `rungs`, `keep`: successive halving. Points are compared `rungs` times, and each
        time but the last the best share `keep` of them goes on. The `i`-th comparison
        from the end is after `steps * keep**i` steps. Defaults 1 and 1/3: all points
        make all steps.
    - `chunk_size`: the most runs in one call of the program. Default: as many as half
        of the free memory holds, by what one step computes. Runs side by side compute
        in every step what one of them computes in that step, such as a decomposition
        that is due in every tenth. With 1, and one seed, no run does.
    - `steps_per_call`: the most steps in one call of the program. Default 50.
    - `progress`: whether to show progress, as `fit` does. Default `True`.

    **Returns:** a [`Sweep`][eqxopt.Sweep].

    SIGINT and SIGTERM stop a sweep as they stop `fit`, and `resume` of the result goes
    on.

    **Raises:** a `ValueError` that names the point if `make` cannot build its
    optimizer; and what `fit` raises.

    **Source:** Jamieson and Talwalkar, [Non-stochastic best arm identification and
    hyperparameter optimization](https://arxiv.org/abs/1502.07943), 2015, for
    successive halving.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> x = jnp.linspace(-1, 1, 64)
        >>> loss_fn = lambda slope, x, y: jnp.mean((slope * x - y) ** 2)
        >>> result = eqxopt.sweep(
        ...     loss_fn, jax.random.normal, eqxopt.Adam,
        ...     {"learning_rate": [1e-3, 1e-2, 1e-1]}, (x, 2 * x),
        ...     key=jax.random.key(0), seeds=3, steps=50, batch_size=16, progress=False,
        ... )
        >>> result.best
        {'learning_rate': 0.1}
        >>> result.loss.shape
        (3, 3, 50)

        ```
    """
    if rungs < 1 or not 0 < keep <= 1:
        raise ValueError(
            f"`sweep`: rungs={rungs} must be at least 1, and keep={keep} in (0, 1]"
        )
    if steps_per_call < 1 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(
            f"`sweep`: steps_per_call={steps_per_call} and chunk_size={chunk_size} "
            "must be at least 1"
        )
    found = listed(points)
    stacks = stacked([optimizer_at(make, point) for point in found])
    if len(stacks) > 1 and all(_has_numbers(point) for point in found):
        warnings.warn(
            f"`sweep`: the points need {len(stacks)} programs, for their optimizers "
            "differ in more than numbers. Perhaps `make` builds a function of each "
            "number, such as a schedule: those of `eqxopt.schedules` keep it as an "
            "array",
            stacklevel=2,
        )
    check_key("`sweep`", key)
    keys, models = _models(make_model, key, seeds, has_state)

    def source(key: PRNGKeyArray, first: int) -> Source:
        return source_of(
            "`sweep`", batches, steps, batch_size, key, first, steps_per_call
        )[0]

    _, count = source_of("`sweep`", batches, steps, batch_size, key, 0, steps_per_call)
    if count is None:
        raise ValueError("`sweep`: an iterable without a length needs `steps`")
    if count < 1:
        raise ValueError(f"`sweep`: steps={count} must be at least 1")
    anew = lambda: new_population(has_aux, residuals)
    program = ProgramOf(loss_fn, _shared(has_aux, residuals), anew, "`sweep`")
    compiled, function = program.now()
    population = Population(
        Plan(
            loss_fn=function,
            program=compiled,
            source=source,
            keys=keys,
            takes_key=takes_key(loss_fn),
            models=models,
            evaluate=None if evaluate is None else read_now(evaluate),
            maximize=maximize,
            has_aux=has_aux,
            residuals=residuals,
            ends=_ends(count, rungs, keep),
            keep=keep,
            chunk_size=chunk_size,
            steps_per_call=steps_per_call,
            progress=progress,
        ),
        stacks,
        len(found),
    )
    population.go()
    return Sweep(found, make, population)


@functools.cache
def _shared(has_aux: bool, residuals: bool) -> CompiledStep:
    """The program of all sweeps, so that a second one compiles nothing."""
    return new_population(has_aux, residuals)


def _models(
    make_model: Callable[[PRNGKeyArray], Any],
    key: PRNGKeyArray,
    seeds: int | Sequence[int],
    has_state: bool,
) -> tuple[Array, tuple[Any, Any]]:
    """The key of each seed's run, and the models and states of all."""
    is_model = isinstance(make_model, eqx.Module) and [*array_leaves(make_model)]
    if is_model or not callable(make_model):
        raise TypeError(
            "`sweep`: `make_model` must be a function from a random key to a model, "
            "such as `lambda key: eqx.nn.MLP(..., key=key)`. It is the model itself; "
            "to begin all runs with it, use `lambda key: model`"
        )
    numbers = [*range(seeds)] if isinstance(seeds, int) else [*seeds]
    if not numbers:
        raise ValueError(f"`sweep`: seeds={seeds} are none")
    numbers = jax.device_put(np.array(numbers, np.uint32))
    keys, models = _made_models(read_now(make_model), key, numbers)
    if not has_state:
        return keys, (models, None)
    if not isinstance(models, tuple) or len(models) != 2:
        raise TypeError(
            "`sweep`: with `has_state=True`, `make_model` must give a model and a "
            f"state, not a `{type(models).__name__}`"
        )
    return keys, models


@eqx.filter_jit
def _made_models(
    make_model: Callable[[PRNGKeyArray], Any], key: PRNGKeyArray, seeds: Array
) -> tuple[Array, Any]:
    fold = lambda seed: jax.random.split(jax.random.fold_in(key, seed))
    pairs = jax.vmap(fold)(seeds)
    return pairs[:, 1], eqx.filter_vmap(make_model)(pairs[:, 0])


def _ends(steps: int, rungs: int, keep: float) -> list[int]:
    """After how many steps points are compared."""
    ends = {max(1, round(steps * keep**i)) for i in range(rungs)}
    return sorted(ends)


def _has_numbers(point: Point) -> bool:
    return all(type(x) in (int, float, complex) for x in point.values())
