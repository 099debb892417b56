"""Each optimizer on each task: tuned on some seeds, and judged on others."""

import json
import pathlib
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

import eqxopt

from ..report import machine
from .optimizers import Contender, CONTENDERS, NUMBERS
from .tasks import Task, TASKS


# Runs side by side in one program. More of them compile longer and train no faster.
CHUNK = 6
# How many places of the curve of the loss are kept.
PLACES = 50


@dataclass(frozen=True)
class Settings:
    """What all optimizers share.

    - `numbers`: the grid.
    - `tuning_seeds`: the number whose mean loss at the end is lowest on these is taken.
    - `seeds`: it is judged on these.
    - `shorter`: what the steps of each task are divided by.
    """

    numbers: tuple[float, ...] = tuple(NUMBERS)
    tuning_seeds: tuple[int, ...] = (0, 1)
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    shorter: int = 1


QUICK = Settings((1e-3, 1e-2, 0.1), (0,), (100, 101), 10)


def run(
    settings: Settings,
    tasks: Iterable[str],
    optimizers: Iterable[str],
    output: pathlib.Path | None = None,
    *,
    again: bool = False,
) -> dict[str, Any]:
    """The results of all pairs, saved after each. Those of pairs that are in `output`
    already are kept, unless they shall be measured `again`."""
    results = _begun(settings, output)
    failures = []
    for task_name in tasks:
        task = None
        for name in optimizers:
            contender, key = CONTENDERS[name], f"{task_name} | {name}"
            if key in results["pairs"] and not again:
                continue
            try:
                task = task or _shortened(TASKS[task_name](), settings)
                with jax.enable_x64(task.float64):
                    results["tasks"][task_name] = _description(task)
                    pair = _pair(settings, task, contender)
            except Exception as error:
                # The others need not wait for it. Nothing is saved of it.
                failures.append(f"{key}: {error!r}")
                print("FAILED", failures[-1], flush=True)
                continue
            results["pairs"][key] = {"task": task_name, "optimizer": name, **pair}
            if output is not None:
                save(results, output)
            print(_line(results["pairs"][key]), flush=True)
        # A program for each pair would stay in memory.
        jax.clear_caches()
    if failures:
        raise RuntimeError("\n".join(failures))
    return results


def _begun(settings: Settings, output: pathlib.Path | None) -> dict[str, Any]:
    shared = json.loads(json.dumps(asdict(settings)))
    if output is None or not output.exists():
        return {"machine": machine(), "settings": shared, "tasks": {}, "pairs": {}}
    results = load(output)
    if results["settings"] != shared:
        raise ValueError(f"{output} has results of other settings: move it away first")
    return results


def load(path: pathlib.Path) -> dict[str, Any]:
    results = json.loads(path.read_text())
    key = lambda pair: f"{pair['task']} | {pair['optimizer']}"
    return results | {"pairs": {key(pair): pair for pair in results["pairs"]}}


def save(results: dict[str, Any], path: pathlib.Path) -> None:
    """One line a pair. The file is replaced at once, so that none is ever half
    written."""
    head = json.dumps(results | {"pairs": []}, indent=1)
    pairs = ",\n  ".join(json.dumps(pair) for pair in results["pairs"].values())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(head.replace('"pairs": []', f'"pairs": [\n  {pairs}\n ]') + "\n")
    part.replace(path)


def _shortened(task: Task, settings: Settings) -> Task:
    return replace(task, steps=task.steps // settings.shorter)


def _description(task: Task) -> dict[str, Any]:
    model = task.make_model(jax.random.key(0))
    return {
        "what": task.what,
        "metric": task.metric,
        "larger_is_better": task.larger_is_better,
        "steps": task.steps,
        "batch_size": task.batch_size,
        "parameters": sum(x.size for x in _parameters(model)),
        "bytes": nbytes(_parameters(model)),
        "untrained_loss": float(task.training_loss(model)),
    }


def _parameters(model: PyTree) -> list[Any]:
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def nbytes(tree: PyTree) -> int:
    keys = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    arrays = [jax.random.key_data(x) if keys(x) else x for x in jax.tree.leaves(tree)]
    return sum(x.nbytes for x in arrays)


def _pair(settings: Settings, task: Task, contender: Contender) -> dict[str, Any]:
    if reason := contender.why_not(task):
        return {"not_run": reason}
    start = time.perf_counter()
    make = lambda number: contender.make(number, task.steps)
    with warnings.catch_warnings():
        # Of losses that are not finite, as those of rates that are too large.
        warnings.simplefilter("ignore")
        number, tuning = _tuned(settings, task, contender)
        judged = _judged(settings, task, make, number)
    whole = time.perf_counter() - start
    return {"number": number, "tuning": tuning, **judged, "whole_seconds": round(whole)}


def _tuned(
    settings: Settings, task: Task, contender: Contender
) -> tuple[float, list[float | None]]:
    """The best number, and the mean losses of all of them."""
    numbers = contender.numbers([*settings.numbers])
    seeds = settings.tuning_seeds
    scores = [
        _scores(task, contender, numbers, some)
        for some in ([[seed] for seed in seeds] if contender.alone else [seeds])
    ]
    means = np.mean(np.concatenate(scores, axis=1), axis=1)
    best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    return numbers[best], _rounded(means)


def _scores(
    task: Task, contender: Contender, numbers: list[float], seeds: Sequence[int]
) -> np.ndarray:
    """The losses at the end, by numbers and seeds."""
    result = eqxopt.sweep(
        task.loss_fn,
        task.make_model,
        lambda number: contender.make(number, task.steps),
        {"number": numbers},
        task.data,
        key=jax.random.key(0),
        seeds=seeds,
        steps=task.steps,
        batch_size=_rows(task),
        evaluate=task.training_loss,
        residuals=task.residuals,
        chunk_size=1 if contender.alone else CHUNK,
        progress=False,
    )
    if result.stopped:
        raise KeyboardInterrupt
    return result.score


def _judged(settings: Settings, task: Task, make: Any, number: float) -> dict[str, Any]:
    """What `fit` makes of that number, seed by seed."""
    losses, finals, held_out, seconds = [], [], [], []
    training_loss = eqx.filter_jit(task.training_loss)
    metric = eqx.filter_jit(task.held_out)
    for seed in settings.seeds:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), seed))
        model = task.make_model(keys[0])
        opt = make(number).init(model)
        start = time.perf_counter()
        model, opt, history = eqxopt.fit(
            task.loss_fn,
            model,
            opt,
            task.data,
            steps=task.steps,
            batch_size=_rows(task),
            key=keys[1] if task.noisy else None,
            residuals=task.residuals,
            progress=False,
        )
        losses.append(np.asarray(jax.block_until_ready(history.loss), float))
        seconds.append((time.perf_counter() - start) / task.steps)
        if history.stopped:
            raise KeyboardInterrupt
        model = opt.eval_params(model)
        finals.append(float(training_loss(model)))
        held_out.append(float(metric(model)))
    return {
        "loss": _rounded(finals),
        "held_out": _rounded(held_out),
        "curve": _rounded(curve(np.mean(losses, axis=0))),
        # The first run compiles.
        "seconds_a_step": float(f"{min(seconds[1:]):.3g}"),
        "state_bytes": nbytes(opt) - nbytes(make(number)),
    }


def _rows(task: Task) -> int | None:
    if task.data is None:
        return None
    return task.batch_size or len(jax.tree.leaves(task.data)[0])


def curve(losses: np.ndarray) -> np.ndarray:
    """The mean over the last twentieth of the steps, at `PLACES` places. The first is
    the loss before training."""
    window = max(1, len(losses) // 20)
    ends = places(len(losses)) + 1
    return np.array([np.mean(losses[max(0, end - window) : end]) for end in ends])


def places(steps: int) -> np.ndarray:
    return np.round(np.linspace(0, steps - 1, min(PLACES, steps))).astype(int)


def _rounded(values: Any) -> list[float | None]:
    """As JSON has it: what is not finite is `None`."""
    return [float(f"{x:.4g}") if np.isfinite(x) else None for x in values]


def _line(pair: dict[str, Any]) -> str:
    name = f"{pair['task']}: {pair['optimizer']}"
    if "not_run" in pair:
        return f"{name}: not run, {pair['not_run']}"
    mean = np.mean([np.nan if x is None else x for x in pair["loss"]])
    return f"{name}: {pair['number']:g}, {mean:.3g}, in {pair['whole_seconds']} s"
