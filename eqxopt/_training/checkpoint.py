"""Saving and loading: a model, its optimizer, and what else a run needs."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._abstract.nested import is_transform
from .._abstract.paths import map_by_path
from .._fields import as_mask, Mask, MaskLike
from .._tree import is_function
from . import _archive
from ._archive import PathLike
from ._entries import (
    entries_of,
    is_of_several_processes,
    Kind,
    kind_of,
    restored,
    stored_form,
)
from ._parts import arguments_of, parts_of
from ._peers import gathered


T = TypeVar("T")


def save(path: PathLike, tree: PyTree) -> None:
    """Saves a model, its optimizer and anything else in one file.

    A process that is killed at any moment leaves the old file or the new one at `path`,
    each complete. The file is an `.npz` whose arrays are named by their paths in the
    tree, so `numpy.load` reads it too.

    **Arguments:**

    - `path`: the file. One that is there is replaced.
    - `tree`: any pytree, such as `(model, opt)` or a dictionary. Its arrays, random
        keys and Python numbers are stored, and the classes of its optimizers.
        Functions, strings and static fields are not: they are the script's.

    Arrays that lie in shards are stored whole. Of several processes that have parts of
    them, all call `save`, and the first one writes.

    **Raises:** a `TypeError` or `ValueError` that names the path of what cannot be
    stored. The file that was there stays.

    !!! example

        ```pycon
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp, eqxopt
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
        >>> opt = eqxopt.SGD(0.1, momentum=0.9).init(jnp.ones(2))
        >>> eqxopt.save(path, {"model": jnp.ones(2), "opt": opt, "epoch": 3})
        >>> list(jnp.load(path))[:3]
        ['checkpoint.json', "['epoch']", "['model']"]

        ```
    """
    _check_path("save", path, "tree")
    entries = entries_of(tree, "save")
    header = {
        "entries": {name: kind_of(x)._asdict() for name, x in entries.items()},
        "classes": {name: type(x).__name__ for name, x in parts_of(tree).items()},
    }
    arrays = ((name, stored_form(name, x)) for name, x in entries.items())
    if any(is_of_several_processes(x) for x in entries.values()):
        _write_together(path, header, arrays)
    else:
        _archive.write(path, header, arrays)


def _check_path(function: str, path: PathLike, tree: str) -> None:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"`{function}` takes the path of the file first, `{function}(path, {tree})"
            f"`, but it is a `{type(path).__name__}`"
        )


def _write_together(
    path: PathLike, header: dict[str, Any], arrays: Iterator[tuple[str, Any]]
) -> None:
    """The first process writes. All of them gather what lies in shards."""
    failed: BaseException | None = None
    if jax.process_index() == 0:
        try:
            _archive.write(path, header, arrays)
        except BaseException as error:
            failed = error
    for _ in arrays:
        pass
    failures = gathered(int(failed is not None))
    if failed is not None:
        raise failed
    if failures.any():
        raise OSError(f"`save`: the first process could not write '{path}'")


def load(
    path: PathLike,
    like: T,
    *,
    hyperparameters: Literal["stored", "own"] = "stored",
    only: MaskLike | None = None,
    renamed: Mapping[str, str] | None = None,
) -> T:
    """Loads what [`save`][eqxopt.save] has saved.

    **Arguments:**

    - `path`: the file.
    - `like`: a tree like the saved one, with optimizers after `init`. What is not
        stored comes from it, and its arrays say where the loaded ones lie. Under
        `equinox.filter_eval_shape` it takes no memory.
    - `hyperparameters`: whose hyperparameters every optimizer in the tree gets.
        `"stored"`, the default, are those of the file: training goes on to the bit.
        `"own"` are those of `like`, whatever their form: all that its constructor was
        given, schedules and seeds as well.
    - `only`: which entries to load, a [selector][selectors] of `path` and array over
        the whole tree. The others stay as they are in `like`. The file may lack them,
        or have them in other shapes. Default `None`: all.
    - `renamed`: new names of optimizers' classes by their old ones.

    **Returns:** `like` with what was loaded.

    **Raises:** a `ValueError` with the paths of all entries that are missing, left over
    or of another shape or dtype, and of optimizers of another class. It is also raised
    for a damaged file, and for one that a newer version wrote.

    !!! example

        ```pycon
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp, eqxopt
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
        >>> params = jnp.ones(2)
        >>> eqxopt.save(path, (params, eqxopt.SGD(0.1).init(params)))
        >>> opt = eqxopt.SGD(0.5).init(params)
        >>> _, opt = eqxopt.load(path, (params, opt), hyperparameters="own")
        >>> print(opt)
        SGD(learning_rate=0.5, count=0)

        ```
    """
    if hyperparameters not in ("stored", "own"):
        raise ValueError(
            f"`load`: `hyperparameters` is 'stored' or 'own', not {hyperparameters!r}"
        )
    entries = entries_of(like, "load")
    _check_path("load", path, "like")
    with _archive.reading(path) as (header, read):
        stored = {
            name: Kind(kind["dtype"], tuple(kind["shape"]))
            for name, kind in header["entries"].items()
        }
        kinds = stored | {name: kind_of(x) for name, x in entries.items()}
        selected = _selection(only, kinds)
        kept = set(arguments_of(like)) if hyperparameters == "own" else set()
        wanted = {
            name
            for name, kind in kinds.items()
            if kept.isdisjoint(_branches(name)) and selected(name, kind)
        }
        expected = {name: kinds[name] for name in entries if name in wanted}
        found = {name: kind for name, kind in stored.items() if name in wanted}
        if only is not None and not expected:
            raise ValueError("`load`: `only` selects no entry of `like`")
        _check_values({name: x for name, x in entries.items() if name not in expected})
        _check_fit(path, like, expected, found, header["classes"], renamed or {})
        loaded = {
            name: restored(read(name), kind, entries[name])
            for name, kind in expected.items()
        }
    return map_by_path(lambda at, x: loaded.get(jtu.keystr(at), x), like)


def _branches(name: str) -> Iterator[str]:
    """A path and all paths above it, the longest first."""
    yield name
    for i in range(len(name) - 1, 0, -1):
        if name[i] in ".[":
            yield name[:i]
    yield ""


def _selection(
    only: MaskLike | None, names: Iterable[str]
) -> Callable[[str, Kind], bool]:
    """Whether to load the entry of a name."""
    if only is None:
        return lambda name, kind: True
    choose: Any = only
    if is_function(only):
        as_mask(only)  # raises an error for another number of arguments
        choice = lambda name, kind: choose(name, kind.array())
    else:
        flat, _ = jtu.tree_flatten_with_path(only)
        prefix = {jtu.keystr(path): x for path, x in flat}
        known = {branch for name in names for branch in _branches(name)}
        for branch in prefix:
            if branch not in known:
                raise ValueError(
                    f"`load`: `only` has an entry at {branch}, where `like` has none"
                )

        def choice(name: str, kind: Kind) -> Any:
            for branch in _branches(name):
                if branch in prefix:
                    return prefix[branch]
            raise ValueError(f"`load`: `only` has no entry for {name}")

    read = Mask(True).read
    return lambda name, kind: read(
        choice(name, kind), f"`load`: `only` at {name}", None
    )


def _check_values(kept: dict[str, Any]) -> None:
    for name, x in kept.items():
        if isinstance(x, jax.ShapeDtypeStruct):
            raise ValueError(
                f"`load`: `like` has only a shape at {name}, which is not loaded: make "
                "`like` with values"
            )


def _check_fit(
    path: PathLike,
    like: PyTree,
    expected: dict[str, Kind],
    found: dict[str, Kind],
    old_classes: dict[str, str],
    renamed: Mapping[str, str],
) -> None:
    """Raise a `ValueError` with all that differs between the entries `expected` by
    `like` and those `found` in the file, and with what to do."""
    parts = parts_of(like)
    covered = {branch for name in expected for branch in _branches(name)}
    classes = {
        name: (old, type(part).__name__)
        for name, part in parts.items()
        if name in covered and (old := old_classes.get(name)) is not None
        if renamed.get(old, old) != type(part).__name__
    }
    both = [name for name in expected if name in found]
    changed = [name for name in both if expected[name] != found[name]]
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if not (classes or changed or missing or extra):
        return
    lines = [
        f"`load`: '{path}' does not fit `like`",
        *_listed(
            "of another class:",
            [
                f"{name or 'the root'}: `{old}` in the file, `{new}` in `like`"
                for name, (old, new) in classes.items()
            ],
        ),
        *_listed(
            "of another shape or dtype:",
            [f"{x}: {found[x]} in the file, {expected[x]} in `like`" for x in changed],
        ),
        *_listed("missing in the file:", [f"{x}: {expected[x]}" for x in missing]),
        *_listed("missing in `like`:", [f"{x}: {found[x]}" for x in extra]),
    ]
    arguments = set(arguments_of(like))
    of_arguments = [
        name
        for name in (*changed, *missing, *extra)
        if not arguments.isdisjoint(_branches(name))
    ]
    without_state = [
        type(part).__name__
        for name, part in parts.items()
        if is_transform(part) and part.count is None and f"{name}.count" in extra
    ]
    for kind in without_state[:1]:
        lines.append(f"`{kind}` in `like` has no state: call `opt.init(model)` first.")
    for name in of_arguments[:1]:
        lines.append(f'`hyperparameters="own"` keeps what `like` has at {name}.')
    for old, new in classes.values():
        lines.append(f"`renamed={{{old!r}: {new!r}}}` if only the name is new.")
    lines.append("`only=lambda path, array: ...` loads a part, and keeps the rest.")
    raise ValueError("\n".join(lines))


def _listed(title: str, lines: list[str], most: int = 20) -> list[str]:
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return [title, *(f"  {line}" for line in lines[:most] + more)] if lines else []
