"""What code reads by name, and whose code it is."""

import dis
import functools
import os
import sys
import sysconfig
import types
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np


class Names(NamedTuple):
    """The names by which code, and the functions inside it, read from outside."""

    globals_: frozenset[str]
    attributes: frozenset[str]
    assigned_globals: bool
    assigned_free: frozenset[str]
    imports_user_code: bool
    sets: bool
    """Whether the code sets attributes, of other objects than a new one."""


@functools.lru_cache(maxsize=4096)
def names_of(code: types.CodeType) -> Names:
    read, attributes, assigned = set(), set(), set()
    assigned_globals = imports = sets = False
    for instruction in dis.get_instructions(code):
        match instruction.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME" | "LOAD_FROM_DICT_OR_GLOBALS":
                read.add(instruction.argval)
            case "LOAD_ATTR" | "LOAD_METHOD":
                attributes.add(instruction.argval)
            case "STORE_ATTR" | "DELETE_ATTR":
                sets |= code.co_name not in ("__init__", "__post_init__")
            case "STORE_GLOBAL" | "DELETE_GLOBAL":
                assigned_globals = True
            case "STORE_DEREF" | "DELETE_DEREF":
                assigned.add(instruction.argval)
            case "IMPORT_NAME":
                module = sys.modules.get(instruction.argval)
                imports |= module is None or not is_installed(vars(module))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names = names_of(inner)
            read |= names.globals_
            attributes |= names.attributes
            assigned |= names.assigned_free
            assigned_globals |= names.assigned_globals
            imports |= names.imports_user_code
            sets |= names.sets
    free = frozenset(assigned) & frozenset(code.co_freevars)
    return Names(
        frozenset(read), frozenset(attributes), assigned_globals, free, imports, sets
    )


def home_of(cls: type) -> dict[str, Any]:
    module = sys.modules.get(cls.__module__)
    return {} if module is None else vars(module)


_INSTALLED = tuple(
    {path + os.sep for path in sysconfig.get_paths().values()}
    | {os.path.dirname(x.__file__ or "") + os.sep for x in (jax, eqx, np)}
    | {os.path.dirname(os.path.dirname(__file__)) + os.sep}
)


def is_installed(home: dict[str, Any]) -> bool:
    """Whether these are the globals of Python or of an installed package."""
    file, name = home.get("__file__"), home.get("__name__", "")
    if file is None:
        return name in sys.builtin_module_names
    return file.startswith(_INSTALLED)
