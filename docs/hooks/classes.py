"""Pages that nobody writes: one for each class of a family, and the index of all public
names. Both come from the lines `::: eqxopt.Name` of the pages that there are."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mkdocs.structure.files as files_
from mkdocs.config.defaults import MkDocsConfig

import eqxopt


# The classes on these pages have pages of their own.
FAMILIES = re.compile(r"optimizers/.*|composition/(transforms|wrappers)\.md")
BLOCK = re.compile(r"^::: (eqxopt\.[\w.]+)\n((?: +\S.*\n|\n(?= +\S))*)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.copyright = f"eqxopt {eqxopt.__version__}"
    config.nav = [_with_classes(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def _with_classes(entry: Any, docs: Path) -> Any:
    """An entry of the navigation, with the pages of classes below that of a family."""
    if not isinstance(entry, dict):
        return entry
    ((title, below),) = entry.items()
    if isinstance(below, list):
        return {title: [_with_classes(x, docs) for x in below]}
    names = [name for name, _ in _classes(below, (docs / below))]
    if not names:
        return entry
    return {title: [{"Overview": below}, *({x: f"api/{x}.md"} for x in names)]}


def _classes(uri: str, path: Path) -> list[tuple[str, str]]:
    """The names on the page of a family, with their options."""
    if not FAMILIES.fullmatch(uri) or not path.exists():
        return []
    return [
        (name.removeprefix("eqxopt."), options)
        for name, options in BLOCK.findall(path.read_text())
    ]


def on_files(files: files_.Files, *, config: MkDocsConfig) -> files_.Files:
    docs, documented = Path(config.docs_dir), {}
    for file in list(files.documentation_pages()):
        path = docs / file.src_uri
        for name, options in _classes(file.src_uri, path):
            page = _page_of(name, options)
            uri = f"api/{name}.md"
            files.append(files_.File.generated(config, uri, content=page))
        for name, _ in BLOCK.findall(path.read_text()):
            documented[name] = _title(path)
    index = files_.File.generated(config, "api/index.md", content=_index(documented))
    files.append(index)
    return files


def _page_of(name: str, options: str) -> str:
    heading = "      heading_level: 1\n"
    options = (
        options.rstrip() + "\n" + heading
        if options.strip()
        else ("    options:\n" + heading)
    )
    return f"---\ntitle: {name}\n---\n\n::: eqxopt.{name}\n{options}"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    if FAMILIES.fullmatch(page.file.src_uri):
        return BLOCK.sub("", markdown)
    if page.file.src_uri == "migration.md":
        return BESIDE.sub(_beside, markdown)
    return markdown


# Two pieces of code that do the same, one after the other.
CODE = r"```python title=\"[^\"]+\"\n(?:(?!```).)*```\n"
BESIDE = re.compile(rf"(?<=\n)({CODE})\n({CODE})", re.DOTALL)


def _beside(match: re.Match[str]) -> str:
    return f'<div class="beside" markdown>\n\n{match[1]}\n{match[2]}\n</div>\n'


def _title(path: Path) -> str:
    heading = re.search(r"^# (.*?)(?: \{.*)?$", path.read_text(), re.MULTILINE)
    return heading[1] if heading else path.stem


def _index(documented: dict[str, str]) -> str:
    """All public names, by the page that shows them."""
    by_title: dict[str, list[tuple[str, str]]] = {}
    for name, what in _public():
        by_title.setdefault(documented.get(name, OTHER), []).append((name, what))
    lines = ["# All public names\n"]
    for title in sorted(by_title, key=lambda title: (title == OTHER, title)):
        anchor = re.sub(r"\W+", "-", title.lower())
        lines.append(f"## {title} {{ #names-{anchor} }}\n\n| name | |\n| --- | --- |")
        for name, what in by_title[title]:
            shown = f"`{name}`"
            linked = f"[{shown}][{name}]" if name in documented else shown
            lines.append(f"| {linked} | {what} |")
        lines.append("")
    return "\n".join(lines)


OTHER = "What rules are written in"


def _public() -> Iterator[tuple[str, str]]:
    """Every public name, and the first sentence of its docstring."""
    for module in (eqxopt, eqxopt.schedules, eqxopt.interop, eqxopt.rules):
        for name in sorted(module.__all__, key=str.lower):
            thing = getattr(module, name)
            if inspect.ismodule(thing):
                continue
            known = inspect.isclass(thing) or inspect.isfunction(thing)
            yield f"{module.__name__}.{name}", _sentence(thing) if known else ""


def _sentence(thing: Any) -> str:
    text = re.split(r"\n\n", inspect.getdoc(thing) or "")[0].replace("\n", " ")
    first = re.split(r"(?<=[.:])\s", text)[0].rstrip(":")
    # In a table a bar ends a cell, also inside an equation.
    for bar, name in ((r"\\\|", r"\Vert"), (r"\|", r"\vert")):
        first = re.sub(bar + r"(?=[A-Za-z])", lambda _: name + " ", first)  # noqa: B023
        first = re.sub(bar, lambda _: name, first)  # noqa: B023
    return first
