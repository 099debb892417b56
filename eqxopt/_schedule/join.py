"""One schedule after another."""

from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp

from .._number import check_increasing, Numbers, numbers
from .._types import Scalar
from .abstract import AbstractSchedule, as_schedule, ScheduleLike, Step


def _as_schedules(schedules: Iterable[ScheduleLike]) -> tuple[AbstractSchedule, ...]:
    return tuple(map(as_schedule, schedules))


class Join(AbstractSchedule):
    """Several schedules, one after the other, each counting from its own start. A delay
    is a schedule joined to a number: `Join((0.0, schedule), (100,))`.

    **Arguments:**

    - `schedules`: schedules, numbers or functions of the step.
    - `boundaries`: the increasing steps in [0, inf) where the next schedule takes over.

    **Raises:** a `ValueError` unless `boundaries` increase, one fewer than `schedules`.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> warmup = schedules.Linear(0.0, 1.0, 100)
        >>> rate = schedules.Join((warmup, schedules.CosineDecay(1.0, 900)), (100,))
        >>> print(*(rate(step) for step in (50, 100, 1000)))
        0.5 1.0 0.0

        ```
    """

    schedules: tuple[AbstractSchedule, ...] = eqx.field(converter=_as_schedules)
    boundaries: Numbers = numbers("[0, inf)")

    def __check_init__(self) -> None:
        schedules, boundaries = len(self.schedules), len(self.boundaries)
        if boundaries != schedules - 1:
            raise ValueError(
                f"`Join` has {schedules} `schedules` and {boundaries} `boundaries`; it "
                "must have a boundary between each schedule and the next"
            )
        check_increasing(self, "boundaries")

    def __call__(self, step: Step) -> Scalar:
        # Clip each schedule's step to its own stretch: where a schedule is not finite
        # the derivative of what `where` selects would be NaN.
        t = jnp.asarray(step, dtype=float)
        first, *others = self.schedules
        # The last has no end: take no step that is infinite, which JAX may check.
        ends = [*self.boundaries, jnp.max(jnp.append(self.boundaries, t))]
        value = first(jnp.minimum(t, ends[0]))
        for schedule, start, end in zip(others, ends, ends[1:]):
            own = schedule(jnp.clip(t, start, end) - start)
            value = jnp.where(t < start, value, own)
        return value
