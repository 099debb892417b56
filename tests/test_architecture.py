"""The layout: floors, abstract or final, and nothing left out of the tables."""

import ast
import dataclasses
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import textwrap

import equinox as eqx
import pytest
from cases import OPTIMIZERS as CASES, PER_EXAMPLE, TRANSFORMS

import eqxopt


ROOT = pathlib.Path(eqxopt.__file__).parent
MODULES = [name for _, name, _ in pkgutil.walk_packages([str(ROOT)], prefix="eqxopt.")]

CONTRIBUTING = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"
# The floors, from the top down, as contributors read them.
FLOORS = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", CONTRIBUTING.read_text(), re.MULTILINE)
# What names and loads the public names stands above all floors.
FLOORS = ["__init__", "rules", "schedules", *FLOORS]
LEVEL = {name: -i for i, name in enumerate(FLOORS)}
# Inside these folders files are floors too, from the ground up.
LAYERS = {
    "_abstract": [
        "show",
        "step",
        "spread",
        "states",
        "nested",
        "transform",
        "paths",
        "narrow",
        "optimizer",
        "skip",
        "rules",
        "groups",
        "leafwise",
        "coupled",
        "batches",
        "matrixwise",
        "wrapper",
        "rescaling",
        "averages",
    ],
    "_fields": [
        "selectors",
        "options",
        "keys",
        "matrices",
        "hyperparameter",
        "bounds",
    ],
    "_math": [
        "small",
        "noise",
        "box",
        "units",
        "moments",
        "factored",
        "linalg",
        "vectors",
    ],
    "_compile": [
        "given",
        "staging",
        "once",
        "opaque",
        "watch",
        "names",
        "members",
        "captured",
        "captures",
        "closures",
        "traces",
    ],
}
OPTIMIZERS_IN = re.compile(r"\._(optim|matrices|curvature)\.")


def imports(path):
    """The modules of the package that the file at `path` imports, as parts."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield (*base, *node.module.split("."))
            else:
                yield from ((*base, alias.name) for alias in node.names)


SOURCES = sorted({*ROOT.rglob("*.py"), *ROOT.rglob("*.pyi")})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_imports_point_down(path):
    folder, *_, name = *path.relative_to(ROOT).with_suffix("").parts[:1], path.stem
    for target in imports(path):
        if target[0] != folder:
            assert LEVEL[target[0]] < LEVEL[folder], f"{path} imports {target}"
        elif name != "__init__":
            neighbour, layers = target[-1], LAYERS.get(folder, [])
            shared = neighbour.startswith("_") or neighbour == "abstract"
            lower = name in layers and neighbour in layers[: layers.index(name)]
            assert shared or lower, f"{path} imports its neighbour {target}"


def test_every_file_has_a_floor():
    root = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert root - {"__pycache__"} == set(FLOORS)
    for folder, layers in LAYERS.items():
        files = {p.stem for p in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert files == set(layers)


def test_the_root_has_few_modules():
    private = [p for p in ROOT.glob("_*.py") if p.stem != "__init__"]
    assert len(private) <= 8


def classes():
    for name in MODULES:
        for _, cls in inspect.getmembers(
            importlib.import_module(name), inspect.isclass
        ):
            if cls.__module__ == name and issubclass(cls, eqx.Module):
                yield cls


@pytest.mark.parametrize("cls", sorted(set(classes()), key=lambda c: c.__name__))
def test_abstract_or_final(cls):
    """No subclass of a concrete class, no override of a concrete method."""
    for base in cls.__mro__[1:]:
        if base.__module__.split(".")[0] != "eqxopt":
            continue
        assert base.__name__.startswith("Abstract"), f"{base} is subclassed"
        for name, member in vars(base).items():
            concrete = callable(member) and not getattr(
                member, "__isabstractmethod__", False
            )
            if concrete and not name.startswith("__"):
                assert getattr(cls, name) is getattr(base, name), f"{cls} {name}"


def public():
    return {name: getattr(eqxopt, name) for name in eqxopt.__all__}


def concrete_optimizers():
    return {
        name
        for name, x in public().items()
        if inspect.isclass(x)
        and issubclass(x, eqxopt.AbstractOptimizer)
        and not name.startswith("Abstract")
    }


@pytest.mark.parametrize("stub", sorted(ROOT.rglob("*.pyi")), ids=str)
def test_stubs_only_name(stub):
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names)


def test_names_are_loaded_when_used():
    code = """
        import sys, equinox, eqxopt
        assert not any("_optim" in name for name in sys.modules if "eqxopt" in name)
        assert eqxopt.SGD is eqxopt.SGD and "eqxopt._optim.sgd" in sys.modules
        assert "eqxopt._optim.adam" not in sys.modules
        assert {"Adam", "schedules", "fit"} <= {*dir(eqxopt)} - {*vars(eqxopt)}
        from eqxopt import *
        assert Adam is eqxopt.Adam and schedules.Linear is eqxopt.schedules.Linear
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("module", [eqxopt, eqxopt.schedules, eqxopt.interop])
def test_a_name_that_is_not_there(module):
    with pytest.raises(AttributeError, match=f"'{module.__name__}' has no .*'Adamm'"):
        module.Adamm


def test_every_optimizer_is_public():
    defined = {
        cls.__name__
        for cls in classes()
        if OPTIMIZERS_IN.search(cls.__module__)
        and issubclass(cls, eqxopt.AbstractOptimizer)
        and not cls.__name__.startswith("Abstract")
    }
    assert defined <= concrete_optimizers()


def test_every_optimizer_is_in_the_case_table():
    optimizers = {
        name
        for name in concrete_optimizers()
        if OPTIMIZERS_IN.search(getattr(eqxopt, name).__module__)
    }
    assert optimizers == set(CASES)


def test_every_transform_is_public_and_in_the_case_table():
    defined = {
        cls.__name__
        for cls in classes()
        if "._transform." in cls.__module__
        and issubclass(cls, eqxopt.AbstractTransform)
    }
    assert defined == set(TRANSFORMS) | PER_EXAMPLE <= set(public())


def test_every_public_name_is_in_the_docs():
    docs = pathlib.Path(__file__).parents[1] / "docs"
    text = "\n".join(path.read_text() for path in docs.rglob("*.md"))
    documented = set(re.findall(r"::: eqxopt\.([\w.]+)", text))
    names = {
        n for n, x in public().items() if inspect.isclass(x) or inspect.isfunction(x)
    }
    names |= {f"schedules.{n}" for n in eqxopt.schedules.__all__}
    names |= {f"interop.{n}" for n in eqxopt.interop.__all__}
    assert names <= documented


def test_every_public_class_says_what_it_is():
    for name, x in public().items():
        if dataclasses.is_dataclass(x) and not name.startswith("Abstract"):
            has_arguments = any(f.init for f in dataclasses.fields(x))
            assert not has_arguments or "**Arguments:**" in x.__doc__, name


def test_public_functions_are_annotated():
    for name in MODULES:
        for _, function in inspect.getmembers(
            importlib.import_module(name), inspect.isfunction
        ):
            if function.__module__ == name and not name.endswith("defjvp"):
                hints = function.__annotations__
                missing = set(inspect.signature(function).parameters) - set(hints)
                assert missing <= {"self", "primals", "tangents"}, function


def test_slow_tests_exist():
    """A test that was renamed would be left out of no run, and nobody would see it."""
    slow = json.loads(pathlib.Path(__file__).with_name("slow.json").read_text())
    for name in [*slow["first"], *slow["none"]]:
        file, *_, function = name.split("::")
        text = (pathlib.Path(__file__).parents[1] / file).read_text()
        assert f"def {function}(" in text, name
