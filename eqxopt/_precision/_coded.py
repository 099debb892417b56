"""An optimizer with its moments in codes, and without."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree, UInt32

from .._abstract.nested import inner_transforms, replace_inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.states import States
from .._abstract.transform import AbstractTransform
from .._compile.once import once_per_shape
from .._fields import KeyData
from .._tree import KeyPath, replace_fields
from .._types import AnyLeaf
from ._codes import AbstractCode, BlockCode, InPartner, moments_of, Path, with_moments


def decoded(optimizer: AbstractOptimizer, zero: UInt32[Array, ""]) -> Any:
    """`optimizer` with its moments in float32."""

    def of(kept: Any) -> Any:
        if not isinstance(kept, States):
            return kept
        alone = [
            with_moments(x, _moments_in(x, zero)) if codes_in(x) else x
            for x in kept.alone
        ]
        return States(tuple(alone), kept.stacks, kept.layout)

    return with_kept(of, optimizer)


def with_words(stored: AbstractOptimizer, exact: AbstractOptimizer) -> Any:
    """`exact`, with the moments that `stored` has in words as they are there."""

    def of(stored: Any, exact: Any) -> Any:
        if not isinstance(stored, States):
            return exact
        alone = [
            with_moments(x, _moments_in(code, None)) if codes_in(code) else x
            for code, x in zip(stored.alone, exact.alone)
        ]
        return States(tuple(alone), exact.stacks, exact.layout)

    return with_kept(of, stored, exact)


def coded(
    old: AbstractOptimizer,
    before: AbstractOptimizer,
    after: AbstractOptimizer,
    again: AbstractOptimizer,
    keys: Iterator[dict[str, KeyData]],
) -> Any:
    """`after`, with its moments in the form that `old` has. `before` is `old`, decoded,
    and `again` is `after`, computed apart."""

    def of(old: Any, before: Any, again: Any, after: Any) -> Any:
        if not isinstance(old, States):
            return after
        # Usually the places are the same, but the model may have come back in other
        # containers.
        places = {path: i for i, path in enumerate(paths_of(old))}
        alone = []
        for k, (path, new) in enumerate(zip(paths_of(after), after.alone)):
            i = places[path]
            codes = codes_in(old.alone[i])
            own = [next(keys)["key"] for _ in codes]
            if codes and _is_same(new, before.alone[i]):
                new = old.alone[i]
            elif codes:
                new = _coded(old.alone[i], new, again.alone[k], own)
            alone.append(new)
        return States(tuple(alone), after.stacks, after.layout)

    return with_kept(of, old, before, again, after)


def with_kept(function: Callable[..., Any], *transforms: AbstractTransform) -> Any:
    """The last of `transforms`, which are alike, with what `function` makes of the
    states that they keep, and with the same done inside."""
    *_, last = transforms
    inside = [inner_transforms(x) for x in transforms]
    changes = {
        label: with_kept(function, *(x[label] for x in inside)) for label in inside[-1]
    }
    kept = function(*(x.kept for x in transforms))
    return replace_fields(replace_inner(last, changes), kept=kept)


def paths_of(kept: States) -> list[KeyPath]:
    """The key paths of the parameters whose states are alone."""
    flat, _ = jtu.tree_flatten_with_path(kept.layout.numbers())
    paths = [path for path, _ in flat]
    return [paths[number] for number in kept.layout.alone]


def _is_same(new: PyTree, old: PyTree) -> bool:
    """Whether an update has left this state alone."""
    return all(a is b for a, b in zip(jtu.tree_leaves(new), jtu.tree_leaves(old)))


def codes_in(tree: PyTree) -> list[AbstractCode]:
    is_code = lambda x: isinstance(x, AbstractCode)
    return [x for x in jtu.tree_leaves(tree, is_leaf=is_code) if is_code(x)]


@once_per_shape
def _moments_in(record: Any, zero: UInt32[Array, ""] | None) -> dict[Path, Any]:
    """The moments of a record by their places; only those in words without `zero`."""
    moments = {}
    for path, code, _ in moments_of(record):
        if not isinstance(code, AbstractCode):
            continue
        if zero is None and isinstance(code, BlockCode):
            continue
        places = [path] if code.partner is None else [path, code.partner]
        decoded = code.decode(jnp.zeros((), jnp.uint32) if zero is None else zero)
        wide = [x.astype(dtype) for x, dtype in zip(decoded, code.dtypes)]
        moments |= dict(zip(places, wide))
    return moments


@once_per_shape
def _coded(record: Any, new: Any, again: Any, keys: Sequence[KeyData]) -> Any:
    remaining = iter(keys)
    wide = [
        {path: _rounded(x.astype(jnp.float32)) for path, x, _ in moments_of(record)}
        for record in (new, again)
    ]
    codes = {}
    for path, code, _ in moments_of(record):
        if isinstance(code, AbstractCode):
            places = [path] if code.partner is None else [path, code.partner]
            moments, apart = ([x[place] for place in places] for x in wide)
            codes[path] = code.encode(moments, apart, next(remaining))
        elif isinstance(code, InPartner):
            codes[path] = code
    return with_moments(new, codes)


@jax.custom_jvp
def _rounded(x: AnyLeaf) -> AnyLeaf:
    return x


@_rounded.defjvp
def _rounded_jvp(primals, tangents):
    raise TypeError(
        "`CompactState`: training cannot be differentiated, since moments are rounded "
        "when they are stored. Take the optimizer without `CompactState`"
    )
