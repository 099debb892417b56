"""Tables that are spread over the modules of a package."""

import importlib
import pkgutil


def merged(package, path, name):
    """The dictionaries `name` of all modules of a package but `common`, as one."""
    table = {}
    for module in pkgutil.iter_modules(path):
        if module.name != "common":
            part = getattr(importlib.import_module(f"{package}.{module.name}"), name)
            assert table.keys().isdisjoint(part)
            table |= part
    return table
