"""Public names that are loaded when they are first used."""

import ast
import importlib
import pathlib
from collections.abc import Callable
from typing import Any


def attach(
    module: dict[str, Any],
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the module with these globals, as the
    stub beside it says where each name lives.

    To make the class of a module takes Equinox about a millisecond. A program pays for
    the classes that it uses, and not for a hundred others."""
    stub = pathlib.Path(module["__file__"]).with_suffix(".pyi")
    homes = {
        alias.name: f".{statement.module or alias.name}"
        for statement in ast.parse(stub.read_text()).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(
                f"module {module['__name__']!r} has no attribute {name!r}",
                name=name,
                obj=importlib.import_module(module["__name__"]),
            )
        home = importlib.import_module(homes[name], module["__package__"])
        module[name] = home if homes[name] == f".{name}" else getattr(home, name)
        return module[name]

    return get, lambda: [*module, *homes], [*homes]
