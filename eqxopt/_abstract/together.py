"""Matrices that share a rule and their sizes, treated as one batch; and what becomes
of each alone."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.tree_util as jtu
from jaxtyping import Array, Int

from .._compile.once import per_leaf
from .._fields.matrices import joined, MatrixView, parted
from .._sharding import laid_like
from .._types import Leaf, Matrix


def together(
    function: Callable[[Any, Any], Any],
    rules: Sequence[Any],
    trees: Sequence[Any],
    count: Int[Array, ""],
) -> list[Any]:
    """`function(rule, tree)` for all pairs, those of one rule and equal sizes at once.

    The arrays in `trees`, and those that `function` gives, have a first axis that
    counts matrices. `count` is that of the updates.
    """
    groups: dict[Any, list[int]] = {}
    for i, (rule, tree) in enumerate(zip(rules, trees)):
        leaves, treedef = jtu.tree_flatten(tree)
        sizes = tuple((x.shape[1:], str(x.dtype)) for x in leaves)
        groups.setdefault((id(rule), treedef, sizes), []).append(i)
    results: dict[int, Any] = {}
    for members in groups.values():
        batch = jtu.tree_map(lambda *xs: joined(xs), *[trees[i] for i in members])
        made = per_leaf(function)(rules[members[0]], batch)
        leaves, treedef = jtu.tree_flatten(made)
        lengths = [len(jtu.tree_leaves(trees[i])[0]) for i in members]
        columns = [parted(x, lengths, count) for x in leaves]
        for k, i in enumerate(members):
            results[i] = treedef.unflatten([column[k] for column in columns])
    return [results[i] for i in range(len(trees))]


@per_leaf
def decayed_step(
    rule: Any,
    matrices: Matrix,
    param: Leaf,
    view: MatrixView,
) -> Leaf:
    """The update that goes along `matrices` and decays `param`."""
    step = laid_like(view.array(matrices), param)
    decay = rule.weight_decay * param.astype(step.dtype)
    return -rule.learning_rate * (step + decay)
