"""Bounds on the parameters."""

import jax.numpy as jnp
from jax.core import Tracer

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._fields import hyperparameter, OptionalHyperparameter
from .._math import step_to_high, step_to_low
from .._types import AnyLeaf, Leaf, Scalar


class KeepNonnegative(AbstractLeafwiseTransform):
    r"""Shortens updates so that no parameter becomes negative.

    $$
    u_t' = \max(u_t, -\theta_{t-1})
    $$

    This is a projection: put it after the optimizer, at the end of a chain. A negative
    parameter moves to 0 at once. For other bounds, or for some of the parameters only,
    use [`eqxopt.KeepInBox`][].

    **Raises:** a `TypeError` by `init` for a complex parameter.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([1.0, 1.0])
        >>> keep = eqxopt.KeepNonnegative().init(x)
        >>> update, keep = keep.update(jnp.array([-3.0, 3.0]), x)
        >>> print(x + update)
        [0. 4.]

        ```
    """

    def init_leaf(self, param: Leaf) -> tuple[()]:
        _check_real(param, "KeepNonnegative")
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return jnp.maximum(grad, -param), ()


class KeepInBox(AbstractLeafwiseTransform):
    r"""Shortens updates so that every entry of the parameters stays between two bounds.

    $$
    u_t' = \min(\max(\theta_{t-1} + u_t, l), h) - \theta_{t-1}
    $$

    This is a projection: put it after the optimizer, at the end of a chain. An entry
    outside the bounds moves to the nearer one at once. An entry inside stays inside,
    up to the rounding of its dtype: a bfloat16 parameter may end at the bfloat16 number
    nearest to the bound.

    **Arguments:**

    - `low`: $l$, in [-inf, inf]. Default `None`, for no lower bound.
    - `high`: $h$, in [-inf, inf] and not below `low`. Default `None`, for no upper
        bound.

    **Raises:** a `TypeError` by `init` for a complex parameter, and a `ValueError` if
    `low` is above `high`.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([0.5, 0.5, 0.5])
        >>> keep = eqxopt.KeepInBox(low=0.0, high=1.0).init(x)
        >>> update, keep = keep.update(jnp.array([-3.0, 0.25, 3.0]), x)
        >>> print(x + update)
        [0.   0.75 1.  ]

        ```
    """

    low: OptionalHyperparameter = hyperparameter("[-inf, inf]", default=None)
    high: OptionalHyperparameter = hyperparameter("[-inf, inf]", default=None)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        _check_real(param, "KeepInBox")
        low, high = self.low, self.high
        if low is not None and high is not None:
            known = not isinstance(low, Tracer) and not isinstance(high, Tracer)
            if known and float(low) > float(high):
                raise ValueError(
                    f"`KeepInBox(low={low}, high={high})`: `low` must not be above "
                    "`high`"
                )
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        new = param + grad
        update = grad
        if self.low is not None:
            update = jnp.where(new < self.low, step_to_low(param, self.low), update)
        if self.high is not None:
            update = jnp.where(new > self.high, step_to_high(param, self.high), update)
        return update, ()


def _check_real(param: AnyLeaf, name: str) -> None:
    if jnp.iscomplexobj(param):
        raise TypeError(
            f"`{name}`: a complex parameter ({param.dtype}) is neither above nor below "
            "a bound. Keep its real and imaginary part as two parameters, or leave it "
            "out."
        )
