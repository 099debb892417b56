"""Gradient centralization."""

import math

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._math import as_unit_axis, axes_within_unit, UnitAxis
from .._types import AnyLeaf, Leaf, Scalar


class CentralizeGradients(AbstractLeafwiseTransform):
    r"""Subtracts from each unit's gradient its mean.

    For the $n$ weights $\theta^{ij}$ of unit $i$,

    $$
    u_t^{ij} = g_t^{ij} - \frac{1}{n} \sum_{k=1}^n g_t^{ik}
    $$

    So the sum of a unit's weights does not change. A unit consists of the weights of
    one output: a row of an `equinox.nn.Linear`, whose weight has shape (out, in), or
    one output channel of a convolution. For layers whose outputs are the last axis, as
    in (in, out), set `unit_axis=-1`.

    Gradients of scalars and vectors pass through unchanged. So do those of arrays with
    one weight a unit, such as the bias of an `equinox.nn.Conv2d`, of shape (out, 1, 1);
    optax sets these to zero.

    **Arguments:**

    - `unit_axis`: the axis, or the axes, along which the units lie. Default 0.

    **Raises:** a `ValueError` by `init` for a parameter of two or more axes that lacks
    a `unit_axis`.

    **Source:** Yong et al., [Gradient Centralization: A New Optimization Technique for
    Deep Neural Networks](https://arxiv.org/abs/2004.01461), 2020.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> grad = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
        >>> centralize = eqxopt.CentralizeGradients().init(grad)
        >>> update, centralize = centralize.update(grad, grad)
        >>> print(update)
        [[-1.  0.  1.]
         [-2. -1.  3.]]

        ```
    """

    unit_axis: UnitAxis = eqx.field(converter=as_unit_axis, default=0, static=True)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        self.axes(param)  # raise for a missing axis in `init`
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        axes = self.axes(param)
        if math.prod(param.shape[axis] for axis in axes) <= 1:
            return grad, ()
        return grad - jnp.mean(grad, axis=axes, keepdims=True), ()

    def axes(self, param: AnyLeaf) -> tuple[int, ...]:
        """The axes over which the mean is taken."""
        if param.ndim <= 1:
            return ()
        return axes_within_unit(param, self.unit_axis, "CentralizeGradients")
