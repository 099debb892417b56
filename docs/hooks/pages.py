"""The last changes to a built page: equations become MathML, which browsers draw
without any script. A warning, which fails a strict build, says where that was
impossible, and which members a page asks for but does not show."""

import html
import logging
import re
from typing import Any

import yaml
from latex2mathml.converter import convert
from mkdocs.structure.pages import Page


log = logging.getLogger("mkdocs.hooks.pages")

# How the converter knows what LaTeX also writes otherwise.
SPELLINGS = [(r"{aligned}", r"{split}"), (r"\\mathcal (\w)", r"\\mathcal{\1}")]
# It keeps the backslash of an escaped character, and takes a relation for a letter.
CORRECTIONS = [(r"\\([_%&#$])", r"\1"), (r"<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")]


def on_page_content(content: str, *, page: Page, **_: Any) -> str:
    name = page.file.src_path
    # The docstring that dataclasses inherit for their `__init__`.
    content = content.replace(
        "<p>Initialize self.  See help(type(self)) for accurate signature.</p>", ""
    )
    content = re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>',
        lambda x: f'<p class="equation">{_mathml(x[1], name, display="block")}</p>',
        content,
        flags=re.DOTALL,
    )
    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda x: _mathml(x[1], name, display="inline"),
        content,
        flags=re.DOTALL,
    )
    # A dollar outside code is an equation whose borders were not found.
    text = re.sub(r"<(pre|code|math)\b.*?</\1>", "", content, flags=re.DOTALL)
    if "$" in text or "arithmatex" in text:
        log.warning(f"{name}: an equation was left as it is")
    for member in _members(page.markdown or ""):
        if f'id="{member}"' not in content:
            log.warning(f"{name}: `{member}` is not shown; has it a docstring?")
    return content


def _mathml(latex: str, page: str, display: str) -> str:
    latex = html.unescape(latex).strip()
    known = latex
    for pattern, spelling in SPELLINGS:
        known = re.sub(pattern, spelling, known)
    mathml = convert(known, display=display)
    for pattern, spelling in CORRECTIONS:
        mathml = re.sub(pattern, spelling, mathml)
    if "\\" in html.unescape(mathml):
        log.warning(f"{page}: not every command is known in `{latex}`")
    return mathml


def _members(markdown: str) -> list[str]:
    """What `members:` asks for, by full name."""
    blocks = re.findall(r"^::: (\S+)\n((?: +\S.*\n?)+)", markdown, flags=re.MULTILINE)
    return [
        f"{owner}.{member}"
        for owner, options in blocks
        for member in yaml.safe_load(options)["options"].get("members", [])
    ]
