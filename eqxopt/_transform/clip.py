"""Clipping: by value, by the norm of each parameter, by the global norm."""

from typing import ClassVar

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._abstract.rescaling import AbstractRescaling
from .._fields import Hyperparameter, hyperparameter
from .._math import clip_factor, clipped, stable_norm
from .._types import Leaf, Scalar


class ClipByValue(AbstractLeafwiseTransform):
    r"""Bounds every entry of the gradients.

    $$
    u_t = \min(\max(g_t, -\delta), \delta)
    $$

    A complex entry keeps its direction, and $|u_t| \le \delta$. An infinite real entry
    becomes $\pm\delta$. NaN stays NaN.

    **Arguments:**

    - `max_delta`: $\delta$, in [0, inf]. Infinity does not clip.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([0.5, -3.0, 4.0])
        >>> clip = eqxopt.ClipByValue(max_delta=1.0).init(x)
        >>> update, clip = clip.update(x, x)
        >>> print(update)
        [ 0.5 -1.   1. ]

        ```
    """

    max_delta: Hyperparameter = hyperparameter("[0, inf]")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return clipped(grad, self.max_delta), ()


class ClipByNorm(AbstractLeafwiseTransform):
    r"""Bounds the norm of each parameter's gradient.

    $$
    u_t = \min\left( 1, \frac{c}{\|g_t\|} \right) g_t
    $$

    Each parameter has its own norm, so the proportions between the gradients of
    different parameters may change. [`eqxopt.ClipByGlobalNorm`][] keeps them. To bound
    the root mean square by $\rho$ instead, as optax's `clip_by_block_rms` does, choose
    $c = \rho \sqrt n$ for a parameter with $n$ entries:
    `ClipByNorm(lambda path, array: rho * array.size**0.5)`.

    **Arguments:**

    - `max_norm`: $c$, in [0, inf]. Infinity does not clip.

    **Source:** Pascanu, Mikolov and Bengio, [On the difficulty of training Recurrent
    Neural Networks](https://arxiv.org/abs/1211.5063), 2013, here for each parameter.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"large": jnp.array([3.0, 4.0]), "small": jnp.array([0.5])}
        >>> clip = eqxopt.ClipByNorm(max_norm=1.0).init(params)
        >>> updates, clip = clip.update(params, params)
        >>> print(updates["large"], updates["small"])
        [0.6 0.8] [0.5]

        ```
    """

    max_norm: Hyperparameter = hyperparameter("[0, inf]")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return grad * clip_factor(stable_norm(grad), self.max_norm), ()


class ClipByGlobalNorm(AbstractRescaling):
    r"""Bounds the norm of all gradients together, without changing their direction.

    $$
    u_t = \min\left( 1, \frac{c}{\|g_t\|} \right) g_t
    $$

    The norm is computed in at least float32, and its squares do not overflow. The field
    `norm` holds the last one, from before clipping: `ClipByGlobalNorm(jnp.inf)`
    measures it and clips nothing. A gradient that is not finite makes the norm infinite
    or NaN, and all updates useless.

    **Arguments:**

    - `max_norm`: $c$, in [0, inf]. Infinity does not clip. With a choice per parameter
        the norm is shared, and each parameter has its own $c$.

    **Source:** Pascanu, Mikolov and Bengio, [On the difficulty of training Recurrent
    Neural Networks](https://arxiv.org/abs/1211.5063), 2013.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
        >>> clip = eqxopt.ClipByGlobalNorm(max_norm=1.0).init(params)
        >>> updates, clip = clip.update(params, params)
        >>> print(updates["a"], updates["b"], clip.norm)
        [0.6] [0.8] 5.0

        ```
    """

    max_norm: Hyperparameter = hyperparameter("[0, inf]")
    per_parameter: ClassVar[bool] = False

    def factor(self, norm: Scalar) -> Scalar:
        return clip_factor(norm.astype(self.max_norm.dtype), self.max_norm)
