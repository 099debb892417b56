"""Units: the weights that belong to one output."""

import operator

from .._types import AnyLeaf


UnitAxis = int | tuple[int, ...]


def as_unit_axis(axis: UnitAxis) -> UnitAxis:
    """A field converter: one axis or several, as integers."""
    if isinstance(axis, tuple | list):
        return tuple(operator.index(i) for i in axis)
    return operator.index(axis)


def axes_within_unit(x: AnyLeaf, unit_axis: UnitAxis, name: str) -> tuple[int, ...]:
    """The axes of `x` that lie within a unit: all but `unit_axis`.

    `name` is the class named in the `ValueError` for an axis that `x` lacks.
    """
    unit_axes = unit_axis if isinstance(unit_axis, tuple) else (unit_axis,)
    for axis in unit_axes:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(
                f"`{name}(unit_axis={unit_axis})`: a parameter of shape {x.shape} has "
                f"no axis {axis}. Transform parameters of another layout apart."
            )
    units = {axis % x.ndim for axis in unit_axes}
    return tuple(axis for axis in range(x.ndim) if axis not in units)


def is_one_unit(x: AnyLeaf) -> bool:
    """Whether `x` is a scalar or a vector, such as a bias. A shape like (8, 1, 1), the
    bias of a convolution, counts as a vector."""
    return sum(length != 1 for length in x.shape) <= 1
