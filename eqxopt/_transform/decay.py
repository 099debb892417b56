"""Weight decay as a term of the gradients."""

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._types import Leaf, Scalar


class AddDecayedWeights(AbstractLeafwiseTransform):
    r"""Adds a multiple of the parameters to the gradients.

    $$
    u_t = g_t + \lambda \theta_{t-1}
    $$

    Before an optimizer, this is the gradient of the $L_2$ penalty $\frac{\lambda}{2}
    \|\theta\|^2$, and it enters the optimizer's moments. After an optimizer, a negative
    $\lambda$ shrinks the parameters by that fraction, whatever the learning rate. The
    decay of [`eqxopt.AdamW`][] lies between the two: it skips the moments and is
    multiplied by the learning rate.

    **Arguments:**

    - `weight_decay`: $\lambda$, in (-inf, inf).
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Loshchilov and Hutter, [Decoupled Weight Decay
    Regularization](https://arxiv.org/abs/1711.05101), 2019, on how the two differ.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> mask = lambda path, array: array.ndim > 1
        >>> decay = eqxopt.AddDecayedWeights(0.5, mask).init(params)
        >>> updates, decay = decay.update(params, params)
        >>> print(updates["weight"][0], updates["bias"])
        [1.5 1.5] [1. 1.]

        ```
    """

    weight_decay: Hyperparameter = hyperparameter("(-inf, inf)")
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return grad + self.weight_decay * param, ()
