"""A table of what an optimizer does to each parameter."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from ._abstract.narrow import loses_small_updates, resolution
from ._abstract.nested import hyperparameter_names, inner_transforms
from ._abstract.paths import leaves_by_path
from ._abstract.rules import rules
from ._abstract.transform import AbstractTransform, count_of
from ._tree import Parameters
from ._wrapper.partition import Freeze


def describe(optimizer: AbstractTransform, model: PyTree) -> str:
    """A table with a line for each parameter: its path, shape, dtype and group, the
    learning rate and the weight decay of the next update, and the bytes of its state.

    The rate of a parameter that [`eqxopt.Freeze`][] has is "frozen". The decay is "-"
    where a mask or a 0 switches it off, and the column is left out if nothing decays. A
    line of its own has the state that is not of one parameter, such as the inverse
    Hessian of `BFGS`. Below the table is a note if there are parameters in bfloat16 or
    float16 and nothing keeps the updates that they are too coarse for, as
    [`eqxopt.MasterWeights`][] does.

    **Arguments:**

    - `optimizer`: any optimizer, after `init`.
    - `model`: the model that it trains.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> opt = eqxopt.AdamW(1e-3, mask=lambda path, array: array.ndim > 1)
        >>> opt = eqxopt.masked(opt, {"a": True, "b": False, "bias": True}).init(params)
        >>> print(eqxopt.describe(opt, params))
        path      shape   dtype    group    rate    decay   state
        ['a']     (2, 2)  float32  trained  0.001   0.0001  32 B
        ['b']     (2, 2)  float32  frozen   frozen  -       0 B
        ['bias']  (2,)    float32  trained  0.001   -       16 B
        total     10                                        48 B

        ```
    """
    if not isinstance(optimizer, AbstractTransform):
        raise TypeError(
            "`describe` takes the optimizer first, `describe(opt, model)`, not a "
            f"`{type(optimizer).__name__}`"
        )
    if shape := count_of(optimizer).shape:
        raise ValueError(
            f"`describe`: the count of this `{type(optimizer).__name__}` has shape "
            f"{shape}, so it is a population. Describe one of it: `jax.tree.map(lambda "
            "x: x[0] if eqx.is_array(x) else x, (opts, models))`"
        )
    parameters = Parameters(model)
    _check_fit(optimizer, parameters)
    treatments = _treatments(optimizer, parameters)
    decays = any(x.decay != "-" for x in treatments)
    *state, shared = _state_bytes(optimizer, parameters)
    head = ["path", "shape", "dtype", "group", "rate", *["decay"] * decays, "state"]
    rows = [head]
    for i, (array, x) in enumerate(zip(parameters.arrays, treatments)):
        row = [parameters.path(i), str(array.shape), str(array.dtype), x.group, x.rate]
        rows.append([*row, *[x.decay] * decays, _bytes(state[i])])
    empty = [""] * (len(head) - 3)
    if shared:
        rows.append(["of all", "", *empty, _bytes(shared)])
    entries = sum(array.size for array in parameters.arrays)
    rows.append(["total", str(entries), *empty, _bytes(sum(state) + shared)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths)) for row in rows)
    notes = _notes(optimizer, parameters)
    return "\n".join([*(line.rstrip() for line in lines), *notes])


def _notes(optimizer: AbstractTransform, parameters: Parameters) -> list[str]:
    """A line for each dtype in which small updates are lost."""
    loses = loses_small_updates(optimizer, parameters)
    dtypes = {array.dtype for array, x in zip(parameters.arrays, loses) if x}
    return [
        f"{dtype} loses updates below {resolution(dtype)} of an entry: see "
        "`eqxopt.MasterWeights`"
        for dtype in sorted(dtypes, key=str)
    ]


def _check_fit(optimizer: AbstractTransform, parameters: Parameters) -> None:
    """Check that `optimizer` was initialised for these parameters."""
    start = lambda arrays: optimizer.start(parameters.exchange(arrays))
    expected = jax.eval_shape(start, parameters.arrays)
    new, old = (
        {jtu.keystr(path): x.shape for path, x in leaves_by_path(tree)}
        for tree in (expected, optimizer)
    )
    for path in new | old:
        if new.get(path) != old.get(path):
            raise ValueError(
                f"`describe`: this `{type(optimizer).__name__}` was initialised for "
                f"another model: its `{path[1:]}` has shape {old.get(path)}, and for "
                f"this model it would have {new.get(path)}"
            )


class _Treatment(NamedTuple):
    """What happens to one parameter, as it is shown."""

    group: str = ""
    rate: str = "-"
    decay: str = "-"


def _treatments(
    transform: AbstractTransform, parameters: Parameters
) -> list[_Treatment]:
    """What the transform and those inside it do to each of `parameters`."""
    frozen = isinstance(transform, Freeze)
    if frozen or not hyperparameter_names(transform):
        found = [_Treatment(rate="frozen" if frozen else "-")] * len(parameters)
    else:
        found = [_of_rule(rule) for rule in rules(transform, parameters)]
    choose: Callable[[Parameters], list[str]] | None
    choose = getattr(transform, "groups", None)
    labels = [""] * len(parameters) if choose is None else choose(parameters)
    for label, inner in inner_transforms(transform).items():
        own = [choose is None or x == label for x in labels]
        places = [i for i, x in enumerate(own) if x]
        for i, x in zip(places, _treatments(inner, parameters.only(own))):
            shown = ".".join(filter(None, [labels[i], x.group]))
            group, rate, decay = found[i]
            found[i] = _Treatment(
                group or shown,
                rate if x.rate == "-" else x.rate,
                " + ".join(y for y in (decay, x.decay) if y != "-") or "-",
            )
    # A label without an inner transform is the optimizer's own rule.
    return [x._replace(group=x.group or label) for x, label in zip(found, labels)]


def _of_rule(rule: AbstractTransform) -> _Treatment:
    rate: Array | None = getattr(rule, "learning_rate", None)
    decay: Array | None = getattr(rule, "weight_decay", None)
    return _Treatment(
        rate="-" if rate is None else f"{float(rate):.4g}",
        decay=f"{float(decay):.4g}" if decay is not None and float(decay) else "-",
    )


def _state_bytes(transform: AbstractTransform, parameters: Parameters) -> list[int]:
    """The bytes of state of each parameter, in all fields that have the model's shape,
    and last of the arrays that belong to all."""
    index_of = parameters.index_of
    sizes = [0] * (len(parameters) + 1)
    for field in dataclasses.fields(transform):
        if field.init or field.name == "count":
            continue
        name = "state" if field.name == "kept" else field.name
        flat, _ = jtu.tree_flatten_with_path(getattr(transform, name))
        for path, leaf in flat:
            for k in range(len(path) + 1):
                if path[:k] in index_of:
                    sizes[index_of[path[:k]]] += leaf.nbytes
                    break
            else:
                sizes[-1] += leaf.nbytes if leaf.ndim else 0  # numbers are not worth it
    for inner in inner_transforms(transform).values():
        inner_sizes = _state_bytes(inner, parameters)
        sizes = [size + more for size, more in zip(sizes, inner_sizes)]
    return sizes


def _bytes(size: float | int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
