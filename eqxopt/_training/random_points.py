"""Points drawn at random."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray


class Between(NamedTuple):
    """An interval to draw from, uniformly or, with `log=True`, uniformly in the
    logarithm, as suits learning rates.

    !!! example

        ```pycon
        >>> import eqxopt
        >>> eqxopt.Between(1e-4, 1.0, log=True)
        Between(low=0.0001, high=1.0, log=True)

        ```
    """

    low: float
    high: float
    log: bool = False


def random_points(
    key: PRNGKeyArray, count: int, **intervals: Between
) -> list[dict[str, float]]:
    """Draws points for [`sweep`][eqxopt.sweep].

    **Arguments:**

    - `key`: the random key.
    - `count`: how many points.
    - `intervals`: for each name the interval of its values, an
        [`eqxopt.Between`][].

    **Returns:** a list of points. To sweep over something else as well, such as names,
    build new points from them.

    **Raises:** a `TypeError` for what is no `Between`; a `ValueError` for an interval
    that is empty, or that reaches zero on a logarithmic scale.

    !!! example

        ```pycon
        >>> import jax, eqxopt
        >>> points = eqxopt.random_points(
        ...     jax.random.key(0), 20,
        ...     learning_rate=eqxopt.Between(1e-4, 1.0, log=True),
        ...     b1=eqxopt.Between(0.8, 0.99),
        ... )
        >>> len(points), sorted(points[0])
        (20, ['b1', 'learning_rate'])

        ```
    """
    for name, interval in intervals.items():
        if not isinstance(interval, Between):
            raise TypeError(
                f"`random_points`: `{name}` must be an interval, such as "
                f"`eqxopt.Between(1e-4, 1.0, log=True)`, not {interval!r}"
            )
        low, high, log = interval
        if not low < high or (log and low <= 0) or not np.isfinite([low, high]).all():
            raise ValueError(
                f"`random_points`: `{name}` cannot be drawn between {low} and {high}"
                + ", since its logarithm is asked for" * log
            )
    shares = jax.random.uniform(key, (count, len(intervals)))
    columns = [
        _placed(interval, np.asarray(share, float))
        for interval, share in zip(intervals.values(), shares.T)
    ]
    return [dict(zip(intervals, map(float, row))) for row in zip(*columns)]


def _placed(interval: Between, share: np.ndarray) -> np.ndarray:
    low, high, log = interval
    if log:
        return low * (high / low) ** share
    return low + (high - low) * share
