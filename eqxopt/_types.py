"""Names for types that are used everywhere."""

from typing import Annotated, Any, TYPE_CHECKING, TypeAlias

from jaxtyping import Array, Float, Inexact, Int


if TYPE_CHECKING:
    from typing import Self as Self
else:
    # Runtime checkers see a method without its class, where `Self` means nothing.
    Self = Any

Scalar: TypeAlias = Float[Array, ""]
"""One real number."""
Leaf: TypeAlias = Inexact[Array, "*shape"]
"""A parameter, or what has its shape: its gradient, its update, a moment."""
RealLeaf: TypeAlias = Float[Array, "*shape"]
"""What is real and has a parameter's shape: a second moment."""
FirstMoment: TypeAlias = Annotated[Inexact[Array, "*shape"], "a moment"]
"""A running mean of gradients, or a gradient that is kept: what `CompactState` may
store in fewer bits."""
SecondMoment: TypeAlias = Annotated[Float[Array, "*shape"], "a moment, never negative"]
"""A running mean of squares, or of magnitudes."""
AnyLeaf: TypeAlias = Inexact[Array, "..."]
"""A parameter, or what belongs to one, of any shape: where several shapes meet."""
Vector: TypeAlias = Float[Array, " n"]
"""All parameters, or all residuals, one after the other."""
Leaves: TypeAlias = list[Inexact[Array, "..."] | None]
"""An array for each parameter, `None` where a parameter is left alone."""
Matrix: TypeAlias = Inexact[Array, "batch rows columns"]
"""Matrices of one size, in a batch."""

# The types of fields that `init` fills.
if TYPE_CHECKING:
    Count: TypeAlias = Int[Array, ""]
    Amount: TypeAlias = Float[Array, ""]
else:
    Count: TypeAlias = Int[Array, ""] | None
    Amount: TypeAlias = Float[Array, ""] | None
