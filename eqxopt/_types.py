"""Names for types that are used everywhere."""

from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from typing import Self as Self
else:
    # Runtime checkers see a method without its class, where `Self` means nothing.
    Self = Any
