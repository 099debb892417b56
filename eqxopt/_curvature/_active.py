"""The parameters that a step of a Newton method moves."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._abstract.step import Step
from .._dtype import zeros_like
from .._math import as_arrays, as_vector, global_norm
from .._tree import fill, Parameters
from .._types import AnyLeaf, Scalar, Vector
from ._box import Box, onward, projected_norm, shortened
from ._pairs import times


Arrays = list[AnyLeaf]


class Active(NamedTuple):
    """The parameters that have a gradient, with all that a step needs of each."""

    parameters: Parameters
    grads: Arrays
    states: list[Any]
    rates: list[Scalar]
    step: Step
    box: Box | None = None

    @property
    def arrays(self) -> Arrays:
        return self.parameters.arrays

    @property
    def present(self) -> list[bool]:
        """Which of all parameters these are."""
        return [grad is not None for grad in self.step.grads]

    def are_last(self) -> Bool[Array, ""]:
        """Whether the gradients are those from the end of the last step."""
        pairs = zip(self.grads, self.states)
        same = [jnp.all(grad == state.grad) for grad, state in pairs]
        return jnp.all(jnp.stack(same))

    def vector(self, values: Arrays, dtype: jnp.dtype) -> Vector:
        """A value for each of these as one vector over all parameters, with 0 for the
        others."""
        every = [zeros_like(param) for param in self.step.parameters.arrays]
        fill(every, self.present, values)
        return as_vector(every, dtype)

    def parts(self, vector: Vector) -> Arrays:
        """What a vector over all parameters has for these."""
        every = as_arrays(vector, self.step.parameters.arrays)
        return [array for array, x in zip(every, self.present) if x]

    def directions(self, vectors: Sequence[AnyLeaf]) -> Arrays:
        """The way against `vectors`, at the learning rate of each parameter."""
        return [times(x, -rate) for x, rate in zip(vectors, self.rates)]

    def in_box(self, updates: Arrays) -> Arrays:
        """The updates, shortened to end in the box."""
        if self.box is None:
            return updates
        return shortened(self.box, self.arrays, updates)

    def grad_norm(self, arrays: Arrays, grads: Arrays) -> Scalar:
        """The norm of the gradients at `arrays`, without what points out of the box."""
        if self.box is None:
            return global_norm(grads)
        return projected_norm(self.box, arrays, grads)

    def onward(self, directions: Arrays, step_size: Scalar) -> Arrays:
        """The directions in which parameters still move after a step of this size."""
        if self.box is None:
            return directions
        return onward(self.box, self.arrays, directions, step_size)
