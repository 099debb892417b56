"""Options that are one of a few words."""

from collections.abc import Callable
from typing import Any


def one_of(name: str, *known: str) -> Callable[[Any], Any]:
    """A field converter: passes a known word for the option `name`."""

    def convert(word: Any) -> Any:
        if word not in known:
            listed = ", ".join(map(repr, known))
            raise ValueError(f"`{name}` is one of {listed}, not {word!r}")
        return word

    return convert
