"""What objects and classes are made of, and what code reads of them unseen."""

import abc
import functools
import os
import sys
import types
from argparse import Namespace
from typing import Any, Generic, Protocol

from .names import Names


# They read what has no name in the code.
DYNAMIC = frozenset(
    "getattr setattr delattr vars globals locals eval exec open input next".split()
)
_DYNAMIC_ATTRIBUTES = frozenset("__getattribute__ __globals__ import_module".split())
# Where modules keep what changes.
_CHANGING = {os: {"environ", "getenv"}, sys: {"modules"}}


def reads_unseen(names: Names, read: dict[str, Any]) -> bool:
    """Whether code with these names, which stand for `read`, reads what may change and
    has no name in it."""
    if names.attributes & _DYNAMIC_ATTRIBUTES:
        return True
    for module, changing in _CHANGING.items():
        held = [vars(module)[name] for name in changing]
        for x in read.values():
            whole = x is module and names.attributes & changing
            if whole or any(x is y for y in held):
                return True
    return False


# Classes of Python whose objects are what is in their attributes.
PLAIN = (*Namespace.__mro__, types.SimpleNamespace, abc.ABC, Generic, Protocol)


def answers(cls: type) -> bool:
    """Whether it makes attributes up when they are read."""
    return not {"__getattr__", "__getattribute__"}.isdisjoint(vars(cls))


def is_stateless(x: Any) -> bool:
    """Whether this is a function of Python or of an extension, and no method."""
    owner = getattr(x, "__self__", None)
    builtin = isinstance(x, types.BuiltinFunctionType)
    return builtin and (owner is None or isinstance(owner, types.ModuleType))


def behind(member: Any) -> Any:
    """The functions behind a member of a class; `None` for what holds a field."""
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    if isinstance(member, property):
        return tuple(x for x in (member.fget, member.fset) if x is not None)
    if isinstance(member, functools.cached_property):
        return member.func
    if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
        return None
    return getattr(member, "method", member)  # Equinox wraps methods


def special(cls: type) -> set[str]:
    """The methods that Python calls by itself. Those that `dataclasses` writes read
    nothing that changes."""
    return {
        name
        for name, x in vars(cls).items()
        if name.startswith("__")
        and name != "__repr__"
        and isinstance(behind(x), types.FunctionType)
        and behind(x).__code__.co_filename != "<string>"
    }
