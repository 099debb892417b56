"""The last changes to a built page: equations become MathML, which browsers draw
without any script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert


def on_page_content(content: str, **_: Any) -> str:
    # The docstring that dataclasses inherit for their `__init__`.
    content = content.replace(
        "<p>Initialize self.  See help(type(self)) for accurate signature.</p>", ""
    )
    # A default that comes from a factory: the docstring says which it is.
    content = content.replace(
        '=&lt;</span><span class="n">factory</span><span class="o">&gt;</span>',
        '=</span><span class="o">...</span>',
    )
    content = re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>',
        lambda match: f"<p>{_mathml(match[1], display='block')}</p>",
        content,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda match: _mathml(match[1], display="inline"),
        content,
        flags=re.DOTALL,
    )


def _mathml(latex: str, display: str) -> str:
    # The converter only knows this layout by its other name.
    latex = html.unescape(latex).replace("{aligned}", "{split}")
    return convert(latex.strip(), display=display)
