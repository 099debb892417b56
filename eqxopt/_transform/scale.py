"""Scaling: by a factor, by a trust ratio, to a fixed norm, to signs."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._abstract.rescaling import AbstractRescaling
from .._fields import Hyperparameter, hyperparameter
from .._math import divide, norm, stable_norm, trust_ratio
from .._types import Leaf, Scalar


class Scale(AbstractLeafwiseTransform):
    r"""Multiplies updates by a number.

    $$
    u_t = s_t g_t
    $$

    After an optimizer, any optimizer, this scales its learning rate: by a schedule, or
    by a factor for some of the parameters.

    **Arguments:**

    - `factor`: $s$, in (-inf, inf).

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([1.0, 2.0])
        >>> scale = eqxopt.Scale(eqxopt.schedules.Linear(1.0, 0.0, 2)).init(x)
        >>> for _ in range(3):
        ...     update, scale = scale.update(x, x)
        ...     print(update)
        [1. 2.]
        [0.5 1. ]
        [0. 0.]

        ```
    """

    factor: Hyperparameter = hyperparameter("(-inf, inf)")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return self.factor * grad, ()


class ScaleByTrustRatio(AbstractLeafwiseTransform):
    r"""Scales each parameter's update in proportion to the parameter's norm.

    $$
    u_t = \frac{c \max(\|\theta_{t-1}\|, \mu)}{\max(\|g_t\|, \mu) + \varepsilon}\, g_t
    $$

    The norms are those of each parameter; the paper's are those of a layer. If one of
    them is 0 and $\mu = 0$, then $u_t = g_t$, so that a parameter can leave zero.
    [`eqxopt.LARS`][] and [`eqxopt.LAMB`][] are optimizers with such a ratio.

    **Arguments:**

    - `min_norm`: $\mu$, in [0, inf). Default 0.
    - `trust_coefficient`: $c$, in [0, inf). Default 1.
    - `eps`: $\varepsilon$, in [0, inf). Default 0.

    **Source:** You, Gitman and Ginsburg, [Large Batch Training of Convolutional
    Networks](https://arxiv.org/abs/1708.03888), 2017.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([6.0, 8.0])
        >>> scale = eqxopt.ScaleByTrustRatio(trust_coefficient=0.1).init(x)
        >>> update, scale = scale.update(jnp.array([0.0, 2.0]), x)
        >>> print(update)
        [0. 1.]

        ```
    """

    min_norm: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    trust_coefficient: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=0.0)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        ratio = trust_ratio(
            jnp.maximum(norm(param), self.min_norm),
            jnp.maximum(stable_norm(grad), self.min_norm),
            self.trust_coefficient,
            self.eps,
        )
        return ratio * grad, ()


class Sign(AbstractLeafwiseTransform):
    r"""Takes the sign of every entry.

    $$
    u_t = \operatorname{sign}(g_t)
    $$

    The sign of 0 is 0. The sign of a complex entry is $z / |z|$. With [`eqxopt.SGD`][]
    after it, this is signSGD. Training can be differentiated, but the sign itself has
    derivative 0.

    **Source:** Bernstein et al., [signSGD: Compressed Optimisation for Non-Convex
    Problems](https://arxiv.org/abs/1802.04434), 2018.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.array([0.5, 0.0, -3.0])
        >>> sign = eqxopt.Sign().init(x)
        >>> update, sign = sign.update(x, x)
        >>> print(update)
        [ 1.  0. -1.]

        ```
    """

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return jnp.sign(grad), ()


class Normalize(AbstractRescaling):
    r"""Scales gradients to a fixed norm.

    $$
    u_t = \frac{s}{\|g_t\| + \varepsilon}\, g_t
    $$

    The norm is that of all gradients together. The field `norm` holds the last one,
    from before scaling. With `per_parameter=True` each gradient has its own norm. A
    gradient of 0 stays 0, also with $\varepsilon = 0$.

    **Arguments:**

    - `scale_factor`: $s$, in (-inf, inf), the norm afterwards. Default 1.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-6.
    - `per_parameter`: whether each gradient has its own norm. Default `False`. Keyword
        only.

    **Source:** Hazan, Levy and Shalev-Shwartz, [Beyond Convexity: Stochastic
    Quasi-Convex Optimization](https://arxiv.org/abs/1507.02030), 2015. The default of
    $\varepsilon$ is optax's.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
        >>> normalize = eqxopt.Normalize(eps=0.0).init(params)
        >>> updates, normalize = normalize.update(params, params)
        >>> print(updates["a"], updates["b"])
        [0.6] [0.8]

        ```
    """

    scale_factor: Hyperparameter = hyperparameter("(-inf, inf)", default=1.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    per_parameter: bool = eqx.field(default=False, static=True, kw_only=True)

    def factor(self, norm: Scalar) -> Scalar:
        return divide(self.scale_factor, norm.astype(self.eps.dtype) + self.eps)
