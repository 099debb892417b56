"""The best of fixed step sizes."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._fields import Hyperparameter, hyperparameter
from .._math import select
from .._number import integer
from .._sharding import cond
from .._types import Scalar, Vector
from .abstract import AbstractLineSearch, Found, Line, Point


class GridLineSearch(AbstractLineSearch):
    r"""Takes the best of fixed step sizes.

    $$
    \eta = \operatorname*{arg\,min}_{k = 0, \dots, n - 1} f\left( \theta +
        \eta_{\max} \beta^k d \right)
    $$

    The step is not made if no point is lower than where the search begins. It costs
    $n$ evaluations of the loss, and one more with its gradients at the end. The
    direction need not go downhill.

    **Arguments:** the numbers may be schedules.

    - `size`: $n$, an integer in [1, inf). Default 31.
    - `decrease_factor`: $\beta$, in (0, 1). Default 0.5.
    - `max_learning_rate`: $\eta_{\max}$, in (0, inf). Default 1.

    **Source:** Müller and Zeinhofer, [Achieving High Accuracy with PINNs via Energy
    Natural Gradient Descent](https://arxiv.org/abs/2302.13163), 2023, whose grid is the
    default.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.LBFGS(linesearch=eqxopt.GridLineSearch()).init(x)
        >>> for _ in range(2):
        ...     value, grads = jax.value_and_grad(f)(x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        ...     print(f"{f(x):.2f} at {opt.step_size}")
        7.52 at 1.0
        0.00 at 1.0

        ```
    """

    size: int = integer("[1, inf)", default=31)
    decrease_factor: Hyperparameter = hyperparameter("(0, 1)", default=0.5)
    max_learning_rate: Hyperparameter = hyperparameter("(0, inf)", default=1.0)

    def search(
        self, line: Line, start: Point, grads: PyTree, previous: Scalar
    ) -> Found:
        powers = jnp.arange(self.size, dtype=start.value.dtype)
        sizes = self.max_learning_rate * self.decrease_factor**powers

        def look(sizes: Vector, start: Point, grads: PyTree) -> Found:
            values = jax.lax.map(lambda size: line(size)[0], sizes)
            best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
            value, gradient = line(sizes[best])
            slope, new_grads = gradient()
            trial = Point(sizes[best], value, slope)
            is_lower = trial.is_finite() & (value < start.value)
            end, grads = select(is_lower, (trial, new_grads), (start, grads))
            return end, grads, jnp.asarray(self.size + 1, jnp.int32)

        def stay(sizes: Vector, start: Point, grads: PyTree) -> Found:
            return start, grads, jnp.zeros((), jnp.int32)

        # A slope of 0 says that nothing is to be found.
        return cond(start.slope != 0, look, stay, sizes, start, grads)
