"""Models as pytrees: their parameters, and what is aligned with or chosen by them."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from ._types import AnyLeaf


T = TypeVar("T")
M = TypeVar("M", bound=eqx.Module)
KeyPath = tuple[Any, ...]


class Parameters:
    """The parameters of a model, which are its inexact arrays, in flattening order.

    The model is flattened here, once an update; everything else reads the result.
    """

    def __init__(self, model: PyTree, *, in_stacks: bool = True):
        self.in_stacks = in_stacks
        self._leaves, self.treedef = jtu.tree_flatten(model)
        self._names = _Names(model)
        places: tuple[list[int], list[int]] = [], []
        for i, leaf in enumerate(self._leaves):
            places[eqx.is_inexact_array(leaf)].append(i)
        self._other_places, self._places = places
        self.arrays: list[AnyLeaf] = [jax_array(self._leaves[i]) for i in self._places]

    def __len__(self) -> int:
        return len(self.arrays)

    def only(self, own: Sequence[bool]) -> "Parameters":
        """Some of the parameters, in the same model."""
        new = copy.copy(self)
        new._places = [i for i, x in zip(self._places, own) if x]
        new.arrays = [array for array, x in zip(self.arrays, own) if x]
        return new

    def exchange(self, arrays: Sequence[AnyLeaf]) -> "Parameters":
        """The same model with other arrays for all of these parameters."""
        new = copy.copy(self)
        new._leaves = list(self._leaves)
        for place, array in zip(self._places, arrays):
            new._leaves[place] = array
        new.arrays = list(arrays)
        return new

    def in_arrays_of_their_own(self) -> "Parameters":
        """The same parameters, none of whose states share an array."""
        new = copy.copy(self)
        new.in_stacks = False
        return new

    @property
    def all_key_paths(self) -> list[KeyPath]:
        """Where the model has leaves, whether they are parameters or not."""
        return self._names.key_paths

    @property
    def key_paths(self) -> list[KeyPath]:
        return [self._names.key_paths[i] for i in self._places]

    @property
    def paths(self) -> list[str]:
        """One path a parameter, such as `.layers[0].weight`."""
        return [self._names.shown[i] for i in self._places]

    @property
    def index_of(self) -> dict[KeyPath, int]:
        """The number of each parameter by its place in what `tree` gives."""
        index_of = {path: i for i, path in enumerate(self.key_paths)}
        return index_of | {(jtu.DictKey(p),): i for i, p in enumerate(self.paths)}

    @property
    def modules(self) -> list[tuple[eqx.Module, ...]]:
        """The modules that each parameter lies in, from the model to the layer."""
        return [self._names.modules[i] for i in self._places]

    def path(self, i: int) -> str:
        return self._names.shown[self._places[i]]

    def tree(self, values: Sequence[Any]) -> PyTree:
        """A tree of the model's shape with `values` at the parameters and `None`
        elsewhere.

        If a class in the model checks or converts what it holds, and so refuses them,
        this is a dictionary from the paths of the parameters to the values.
        """
        leaves = self._filled([None] * len(self._leaves), values)
        try:
            tree = self.treedef.unflatten(leaves)
            kept = self.treedef.flatten_up_to(tree)
        except Exception:
            tree, kept = None, []
        if len(kept) == len(leaves) and all(a is b for a, b in zip(kept, leaves)):
            return tree
        return dict(zip(self.paths, values))

    def of_paths(self, tree: PyTree) -> list[Any] | None:
        """What `tree` has at each parameter, if it is a dictionary from paths."""
        if isinstance(tree, dict) and tree and tree.keys() <= set(self._names.shown):
            return [tree.get(path) for path in self.paths]
        return None

    def model(self, values: Sequence[Any]) -> PyTree:
        """The model with `values` in place of the parameters."""
        return self.treedef.unflatten(self._filled(list(self._leaves), values))

    def _filled(self, leaves: list[Any], values: Sequence[Any]) -> list[Any]:
        for i, value in zip(self._places, values):
            leaves[i] = value
        return leaves

    def align(self, tree: PyTree, what: str) -> list[Any]:
        """What `tree`, a tree of the model's shape, has at each parameter.

        `what` names the tree in the error raised if it has another shape, or an array
        where the model has something that is no parameter.
        """
        try:
            entries = self.treedef.flatten_up_to(tree)
        except ValueError:
            by_path = self.of_paths(tree)
            if by_path is not None:
                return by_path
            # Equal places may still hang in other containers: a whole branch that is
            # None, a list restored as a tuple, a module with another static field.
            self._check_paths(tree, what)
            entries = [self._found(tree, path) for path in self.all_key_paths]
        for i in self._other_places:
            if eqx.is_inexact_array(entries[i]):
                raise TypeError(
                    f"{what} have an array at {self._names.shown[i]}, where the model "
                    f"has {_show_leaf(self._leaves[i])}, which is no parameter. To "
                    "train it, make it an array before `init`: `jnp.asarray(x, float)`"
                )
        return [entries[i] for i in self._places]

    def _found(self, tree: PyTree, path: KeyPath) -> Any:
        try:
            return _follow(tree, path)
        except (AttributeError, LookupError, TypeError):
            return None  # no parameter, as `_check_paths` knows

    def _check_paths(self, tree: PyTree, what: str) -> None:
        own = set(self.all_key_paths)
        flat, _ = jtu.tree_flatten_with_path(tree)
        for path, _ in flat:
            if not any(path[:k] in own for k in range(len(path) + 1)):
                raise ValueError(
                    f"{what} have a leaf at {show_path(path)}, where the model has none"
                )
        for path in self.key_paths:
            try:
                _follow(tree, path)
            except (AttributeError, LookupError, TypeError):
                raise ValueError(
                    f"{what} have nothing at {show_path(path)}, where the model has a "
                    "parameter"
                ) from None


def static_leaves(leaves: list[Any]) -> tuple[Any, ...]:
    """All leaves in order, with `None` in place of arrays."""
    return tuple(None if eqx.is_array(x) else x for x in leaves)


def static_key(static: Sequence[Any]) -> tuple[Any, ...]:
    """What tells static leaves apart: 1, 1.0 and True are equal, and 0.0 and -0.0."""
    return tuple(
        (type(x), repr(x) if isinstance(x, float | complex) else x) for x in static
    )


def merged_leaves(static: tuple[Any, ...], arrays: list[Any]) -> list[Any]:
    """All leaves in order: `arrays` where `static` has `None`."""
    remaining = iter(arrays)
    return [next(remaining) if x is None else x for x in static]


class _Names:
    """The paths of a model's leaves, found when the first is asked for."""

    def __init__(self, model: PyTree):
        self._model = model

    @cached_property
    def key_paths(self) -> list[KeyPath]:
        return [path for path, _ in jtu.tree_flatten_with_path(self._model)[0]]

    @cached_property
    def shown(self) -> list[str]:
        return [show_path(path) for path in self.key_paths]

    @cached_property
    def modules(self) -> list[tuple[eqx.Module, ...]]:
        return [_modules_along(self._model, path) for path in self.key_paths]


def show_path(path: KeyPath) -> str:
    """A key path as a user would write it; the model itself where it is empty."""
    return jtu.keystr(path) or "the root"


def _show_leaf(leaf: Any) -> str:
    """A leaf in an error: a number as it is, an array by its dtype."""
    if eqx.is_array(leaf):
        return f"an array of dtype {leaf.dtype}"
    if isinstance(leaf, bool | int | float | complex):
        return f"the Python number {leaf!r}"
    return f"a `{type(leaf).__name__}`"


def _follow(tree: PyTree, path: KeyPath) -> Any:
    """What `tree` has at `path`. A branch that is None has None everywhere in it."""
    for key in path:
        if tree is None:
            return None
        match key:
            case jtu.GetAttrKey(name=name):
                tree = getattr(tree, name)
            case jtu.DictKey(key=name):
                tree = tree[name]
            case jtu.SequenceKey(idx=index):
                tree = tree[index]
            case _:
                children = jtu.default_registry.flatten_one_level(tree)
                if children is None:
                    raise LookupError(key)
                tree = list(children[0])[key.key]
    return tree


def _modules_along(tree: PyTree, path: KeyPath) -> tuple[eqx.Module, ...]:
    """The modules that are met on the way to what `tree` has at `path`."""
    found = []
    for key in path:
        if isinstance(tree, eqx.Module):
            found.append(tree)
        tree = _follow(tree, (key,))
    return tuple(found)


def is_function(x: Any) -> bool:
    """Whether `x` is a function rather than a tree.

    `callable` cannot tell: an Equinox model is a tree, and callable. A function is a
    callable that is a leaf.
    """
    return callable(x) and jtu.all_leaves([x])


def is_choice(x: Any) -> bool:
    """Whether `x` is a function of `(path, array)` or `(path, array, modules)`."""
    return is_function(x) and needed_arguments(x) in (2, 3)


def mapped_choice(function: Callable[[Any], Any], choice: Any, **options: Any) -> Any:
    """A choice that gives `function` of what `choice` gives."""
    if not is_function(choice):
        return jtu.tree_map(function, choice, **options)
    if needed_arguments(choice) == 3:
        return lambda path, array, modules: function(choice(path, array, modules))
    return lambda path, array: function(choice(path, array))


def needed_arguments(function: Callable[..., Any]) -> int:
    """How many positional arguments `function` cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin that does not tell
        return 1
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Whether `function` can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        pass
    return True


def choose(
    choice: PyTree[T] | Callable[..., T],
    parameters: Parameters,
    what: str,
    is_leaf: Callable[[Any], bool] | None = None,
) -> list[T]:
    """What `choice` gives each parameter: the library's one form of selection.

    `choice` is a function of `(path, array)` or `(path, array, modules)`, or a tree
    that is a prefix of the model: each of its leaves stands for all parameters below.
    `what` names it in the `ValueError` raised if it does not fit.
    """
    if is_function(choice):
        columns = [parameters.paths, parameters.arrays]
        if needed_arguments(choice) == 3:
            columns.append(parameters.modules)
        return [choice(*row) for row in zip(*columns)]
    by_path = parameters.of_paths(choice)
    if by_path is not None and all(x is not None for x in by_path):
        return by_path
    prefix = dict(jtu.tree_flatten_with_path(choice, is_leaf=is_leaf)[0])
    chosen = [_longest_prefix(path, prefix, what) for path in parameters.key_paths]
    branches = {p[:k] for p in parameters.all_key_paths for k in range(len(p) + 1)}
    for path, entry in prefix.items():
        # A tree made from the model also has the model's own `None`s.
        if path and path not in branches and entry is not None:
            raise ValueError(
                f"{what} has an entry at {show_path(path)}, where the model has none"
            )
    return chosen


def _longest_prefix(path: KeyPath, prefix: dict[KeyPath, T], what: str) -> T:
    for k in range(len(path), -1, -1):
        if path[:k] in prefix:
            return prefix[path[:k]]
    raise ValueError(f"{what} has no entry for the parameter {show_path(path)}")


def fill(values: list[Any], own: Sequence[bool], new: Sequence[Any]) -> None:
    """Put `new`, which has a value for each place that is `own`, there in `values`."""
    remaining = iter(new)
    for i, here in enumerate(own):
        if here:
            values[i] = next(remaining)


def replace_fields(module: M, **changes: Any) -> M:
    """A copy of `module` with some fields changed. Nothing is converted or checked, so
    it is cheap inside a trace."""
    new = object.__new__(type(module))
    fields = type(module).__dataclass_fields__
    for name, value in (vars(module) | changes).items():
        # Equinox adds attributes to a copy of a module that has not all its fields, and
        # such a copy would be of another structure.
        if name in fields:
            object.__setattr__(new, name, value)
    return new


def jax_array(x: Any) -> Any:
    """An array of NumPy as one of JAX, which alone knows where it lies."""
    return jax.numpy.asarray(x) if isinstance(x, np.ndarray | np.generic) else x


def is_key(x: Any) -> bool:
    """Whether an array is of typed random keys."""
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def with_own_arrays(tree: T, *others: PyTree) -> T:
    """`tree` with copies of the arrays that it shares with `others`, or has twice."""
    taken = {id(x) for x in jtu.tree_leaves(others)}
    leaves, treedef = jtu.tree_flatten(tree)
    shared = []
    for i, x in enumerate(leaves):
        known = isinstance(x, jax.Array) and not isinstance(x, Tracer)
        if known and id(x) in taken:
            shared.append(i)
        taken.add(id(x))
    # One call for all: it costs far less than a copy of each.
    copies = jax.device_put([leaves[i] for i in shared], may_alias=False)
    for i, copy_ in zip(shared, copies):
        leaves[i] = copy_
    return treedef.unflatten(leaves)


def is_nothing(state: PyTree) -> bool:
    """Whether this is `()`, the state of a rule without state."""
    return isinstance(state, tuple) and not state


def array_leaves(tree: PyTree) -> Iterator[Array]:
    return (leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))
