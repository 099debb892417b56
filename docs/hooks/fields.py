"""What the inspection of a class misses: fields without a value on the class, and the
strings below fields that say what they hold."""

import ast
import inspect
import textwrap
from typing import Any

import griffe


class Fields(griffe.Extension):
    def on_class_members(
        self, *, node: griffe.ObjectNode, cls: griffe.Class, **_: Any
    ) -> None:
        docstrings = field_docstrings(node.obj)
        for name in docstrings.keys() - cls.members.keys():
            cls.set_member(name, griffe.Attribute(name, parent=cls))
        for name, member in cls.members.items():
            if isinstance(member, griffe.Attribute):  # with the docstring of its type
                text = docstrings.get(name)
                member.docstring = text and griffe.Docstring(text, parent=member)
        if isinstance(init := cls.members.get("__init__"), griffe.Function):
            for parameter in init.parameters:
                if not is_expression(parameter.default):
                    parameter.default = "..."


def field_docstrings(cls: type) -> dict[str, str]:
    """By field, the string that follows it in the body of the class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    for field, text in zip(definition.body, definition.body[1:]):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(name))
                | ast.Assign(targets=[ast.Name(name)]),
                ast.Expr(ast.Constant(str(docstring))),
            ):
                docstrings[name] = inspect.cleandoc(docstring)
    return docstrings


def is_expression(default: str | None) -> bool:
    """Whether a default can be written as code. `<factory>` cannot, and no formatter
    takes a signature that contains it."""
    try:
        ast.parse(default or "None", mode="eval")
    except SyntaxError:
        return False
    return True
