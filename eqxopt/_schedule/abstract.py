"""What a schedule is."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._number import check_ranges


class AbstractSchedule(eqx.Module):
    """A value that moves with the number of updates made.

    A schedule is called with the count of updates made so far, so the first update
    sees 0. Its numbers are array fields: they can be changed without recompiling,
    batched with `jax.vmap` and differentiated.
    """

    @abc.abstractmethod
    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The value at `step`."""

    def __check_init__(self) -> None:
        check_ranges(self)


class Custom(AbstractSchedule):
    """A schedule from a plain function of the step.

    Wherever a schedule is accepted, so is such a function, and this wrapping is done
    for you. The function is a static field: numbers inside it are compiled in.

    **Arguments:**

    - `function`: takes the step, an int32 scalar, and returns a scalar.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> halving = schedules.Custom(lambda step: 0.1 * 0.5**step)
        >>> print(halving(2))
        0.025

        ```
    """

    function: Callable[..., Float[Array, ""] | float] = eqx.field(static=True)

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        value = jnp.asarray(self.function(step), dtype=float)
        if value.shape != ():
            raise ValueError(
                f"a schedule must give a scalar, but {self.function} gave an array of "
                f"shape {value.shape}"
            )
        return value
