"""What was read once, to tell quickly whether any of it has changed."""

from collections.abc import Mapping
from types import CellType
from typing import Any

import jax.tree_util as jtu


MISSING = object()


class Watch:
    """Remembers what was read and where. A look at it takes microseconds."""

    def __init__(self):
        self._entries: list[tuple[Mapping[str, Any], str, Any]] = []
        self._attributes: list[tuple[Any, str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._trees: list[tuple[Any, list[Any], Any]] = []

    def entry(self, mapping: Mapping[str, Any], name: str) -> Any:
        value = mapping.get(name, MISSING)
        self._entries.append((mapping, name, value))
        return value

    def attribute(self, x: Any, name: str) -> Any:
        value = getattr(x, name)
        self._attributes.append((x, name, value))
        return value

    def cell(self, cell: CellType) -> Any:
        self._cells.append((cell, cell.cell_contents))
        return cell.cell_contents

    def tree(self, tree: Any) -> None:
        """The nodes of a tree may be lists and dictionaries."""
        self._trees.append((tree, *jtu.tree_flatten(tree)))

    def changed(self) -> bool:
        return (
            any(m.get(name, MISSING) is not x for m, name, x in self._entries)
            or any(getattr(y, name) is not x for y, name, x in self._attributes)
            or any(cell.cell_contents is not x for cell, x in self._cells)
            or any(_differs(*held) for held in self._trees)
        )


def _differs(tree: Any, leaves: list[Any], treedef: Any) -> bool:
    now, structure = jtu.tree_flatten(tree)
    return structure != treedef or any(x is not y for x, y in zip(now, leaves))
