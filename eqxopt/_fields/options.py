"""Static options: one of a few words, a dtype."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import DTypeLike

from .._dtype import as_dtype


if TYPE_CHECKING:

    class DType:
        """A field that is set to anything that names a dtype, or to `None`."""

        def __get__(self, instance: object, owner: Any = None) -> jnp.dtype | None: ...
        def __set__(self, instance: object, value: DTypeLike | None) -> None: ...

else:
    DType: TypeAlias = jnp.dtype | None


def dtype_option(**options: Any) -> Any:
    """A static field that holds the dtype in which a state is kept, or `None` for that
    of the parameter, at least float32."""
    metadata = {"like": "DTypeLike"}
    return eqx.field(converter=as_dtype, static=True, metadata=metadata, **options)


def one_of(name: str, *known: str) -> Callable[[Any], Any]:
    """A field converter: passes a known word for the option `name`."""

    def convert(word: Any) -> Any:
        if word not in known:
            listed = ", ".join(map(repr, known))
            raise ValueError(f"`{name}` is one of {listed}, not {word!r}")
        return word

    return convert


def word(name: str, *known: str, **options: Any) -> Any:
    """A static field that holds one of a few words."""
    return eqx.field(converter=one_of(name, *known), static=True, **options)
