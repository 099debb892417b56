"""Adaptive gradient clipping."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._fields import Hyperparameter, hyperparameter
from .._math import (
    abs_sq,
    as_unit_axis,
    axes_within_unit,
    clip_factor,
    is_one_unit,
    sqrt,
    stable_norm,
    UnitAxis,
)
from .._types import AnyLeaf, Leaf, Scalar


class AdaptiveGradientClipping(AbstractLeafwiseTransform):
    r"""Bounds the norm of each unit's gradient by a fraction of the norm of the unit's
    weights.

    For the weights $\theta^i$ of unit $i$,

    $$
    u_t^i = \min\left( 1, \frac{\lambda \max(\|\theta_{t-1}^i\|, \varepsilon)}
        {\|g_t^i\|} \right) g_t^i
    $$

    A unit consists of the weights of one output: a row of an `equinox.nn.Linear`, whose
    weight has shape (out, in), or one output channel of a convolution. A scalar or a
    vector, such as a bias, is one unit. So is an array with only one axis longer than
    1.

    In Flax the outputs are the last axis, as in (in, out) and (height, width, in, out):
    set `unit_axis=-1`. The numbers are then those of optax's `adaptive_grad_clip`,
    except for arrays with three axes, where optax's units lie along
    `unit_axis=(1, 2)`.

    **Arguments:**

    - `clipping`: $\lambda$, in [0, inf). The paper takes 0.01 for large batches and
        more for small ones. It advises not to clip the last layer: choose a large
        number for that.
    - `eps`: $\varepsilon$, in (0, inf). It lets weights that are zero leave zero.
        Default 1e-3.
    - `unit_axis`: the axis, or the axes, along which the units lie. Default 0.

    **Raises:** a `ValueError` by `init` for a parameter that lacks a `unit_axis`.

    **Source:** Brock et al., [High-Performance Large-Scale Image Recognition Without
    Normalization](https://arxiv.org/abs/2102.06171), 2021, with its $\varepsilon$.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> weight = jnp.array([[3.0, 4.0], [0.3, 0.4]])
        >>> clip = eqxopt.AdaptiveGradientClipping(clipping=0.1).init(weight)
        >>> update, clip = clip.update(jnp.array([[2.0, 0.0], [2.0, 0.0]]), weight)
        >>> print(update)
        [[0.5  0.  ]
         [0.05 0.  ]]

        ```
    """

    clipping: Hyperparameter = hyperparameter("[0, inf)")
    eps: Hyperparameter = hyperparameter("(0, inf)", default=1e-3)
    unit_axis: UnitAxis = eqx.field(converter=as_unit_axis, default=0, static=True)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        self.axes(param)  # raise for a missing axis in `init`
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        axes = self.axes(param)
        squares = jnp.sum(abs_sq(param), axis=axes, keepdims=axes is not None)
        max_norm = self.clipping * jnp.maximum(sqrt(squares), self.eps)
        return grad * clip_factor(stable_norm(grad, axes), max_norm), ()

    def axes(self, param: AnyLeaf) -> tuple[int, ...] | None:
        """The axes over which a norm is taken; `None` means all of them."""
        if is_one_unit(param):
            return None
        return axes_within_unit(param, self.unit_axis, "AdaptiveGradientClipping")
