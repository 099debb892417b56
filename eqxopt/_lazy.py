"""Public names whose modules are imported on first use."""

import ast
import importlib
import pathlib
from collections.abc import Callable
from typing import Any


def attach(
    module: dict[str, Any],
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for the module whose globals are `module`.
    The stub beside it says in which file each name is.

    Equinox takes about a millisecond to create each class. With this, a program pays
    only for the classes that it uses.
    """
    stub = pathlib.Path(module["__file__"]).with_suffix(".pyi")
    files = {
        alias.name: f".{statement.module or alias.name}"
        for statement in ast.parse(stub.read_text()).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    def get(name: str) -> Any:
        if name not in files:
            raise AttributeError(
                f"module {module['__name__']!r} has no attribute {name!r}",
                name=name,
                obj=importlib.import_module(module["__name__"]),
            )
        file = importlib.import_module(files[name], module["__package__"])
        is_submodule = files[name] == f".{name}"
        module[name] = file if is_submodule else getattr(file, name)
        return module[name]

    return get, lambda: [*(module.keys() | files.keys())], [*files]
