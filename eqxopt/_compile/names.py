"""What code reads by name, and whose code it is."""

import dis
import functools
import inspect
import itertools
import os
import re
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
    fills: bool
    """Whether the code changes lists or dictionaries in place, other than new ones."""


# Names behind which code may read all attributes of an object, none of them by name.
WHOLE = frozenset(
    "__dict__ __match_args__ asdict astuple attrgetter methodcaller".split()
)
# What puts an object of somebody else on the stack.
_GIVEN = "LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"


@functools.lru_cache(maxsize=4096)
def names_of(code: types.CodeType) -> Names:
    read, attributes, assigned = set(), set(), set()
    assigned_globals = imports = sets = False
    instructions = [*dis.get_instructions(code)]
    for before, instruction in itertools.pairwise([instructions[0], *instructions]):
        match instruction.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME" | "LOAD_FROM_DICT_OR_GLOBALS":
                read.add(instruction.argval)
            case "LOAD_ATTR" | "LOAD_METHOD" | "LOAD_SUPER_ATTR":
                attributes.add(instruction.argval)
            case "MATCH_CLASS":  # names of keywords, and how many there are without
                attributes.update(before.argval)
                attributes |= {"__match_args__"} if instruction.argval else set()
            case "COMPARE_OP" if before.opname in _GIVEN:
                equality = "==", "!="
                if any(sign in instruction.argval for sign in equality):
                    attributes.add("__eq__")
            case "STORE_ATTR" | "DELETE_ATTR":
                sets |= code.co_name not in ("__init__", "__post_init__")
            case "STORE_GLOBAL" | "DELETE_GLOBAL":
                assigned_globals = True
            case "STORE_DEREF" | "DELETE_DEREF":
                assigned.add(instruction.argval)
            case "IMPORT_NAME":
                module = sys.modules.get(instruction.argval)
                imports |= module is None or not is_installed(vars(module))
    attributes |= read & WHOLE
    fills = _fills(code, instructions)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names = names_of(inner)
            read |= names.globals_
            attributes |= names.attributes
            assigned |= names.assigned_free
            assigned_globals |= names.assigned_globals
            imports |= names.imports_user_code
            sets |= names.sets
            fills |= names.fills
    free = frozenset(assigned) & frozenset(code.co_freevars)
    return Names(
        frozenset(read),
        frozenset(attributes),
        assigned_globals,
        free,
        imports,
        sets,
        fills,
    )


# The methods of lists and dictionaries that change them.
_FILLING = frozenset(
    "append clear extend insert pop popitem remove reverse setdefault sort "
    "update".split()
)
# What puts on the stack something that others may have as well.
_LOADS = "LOAD_FAST", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "BINARY_"


def _fills(code: types.CodeType, instructions: list[dis.Instruction]) -> bool:
    """Whether `code` changes a list or a dictionary in place that it may have from
    outside. If in doubt, it does."""
    steps = [step for x in instructions for step in _single(x)]
    new = {*code.co_varnames[_argument_count(code) :], *code.co_cellvars}
    for (before, _), (name, variable) in itertools.pairwise(steps):
        if name in ("STORE_FAST", "STORE_DEREF") and before.startswith(_LOADS):
            new.discard(variable)

    def is_new(name: str, variable: Any) -> bool:
        return name.startswith(("LOAD_FAST", "LOAD_DEREF")) and variable in new

    for i, (name, x) in enumerate(steps):
        if name in ("LOAD_ATTR", "LOAD_METHOD") and x in _FILLING:
            container = steps[i - 1]
        elif name in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            container = steps[i - 2]  # the next to last before it; the last is the key
        else:
            continue
        if not is_new(*container):
            return True
    return False


def _single(instruction: dis.Instruction) -> list[tuple[str, Any]]:
    """An instruction, or the two that Python joined in it, with their arguments."""
    both = re.findall("(?:LOAD|STORE)_FAST", instruction.opname)
    if len(both) == 2:
        return [*zip(both, instruction.argval)]
    return [(instruction.opname, instruction.argval)]


def _argument_count(code: types.CodeType) -> int:
    flags = bool(code.co_flags & inspect.CO_VARARGS) + bool(
        code.co_flags & inspect.CO_VARKEYWORDS
    )
    return code.co_argcount + code.co_kwonlyargcount + flags


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
