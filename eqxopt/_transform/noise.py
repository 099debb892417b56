"""Gradient noise of falling variance."""

from .._abstract.leafwise import AbstractLeafwiseTransform
from .._fields import Hyperparameter, hyperparameter, Key, key_field
from .._math import fading_noise
from .._types import Leaf, Scalar


class AddNoise(AbstractLeafwiseTransform):
    r"""Adds Gaussian noise whose variance falls with every step.

    $$
    \begin{aligned}
    \sigma_t^2 &= \eta / t^\gamma \\
    u_t &= g_t + n_t, \qquad n_t \sim \mathcal N(0, \sigma_t^2)
    \end{aligned}
    $$

    The first step is $t = 1$, and its noise has variance $\eta$. The paper counts from
    0 and writes $\eta / (1 + t)^\gamma$. Every entry of every parameter has its own
    noise. For complex parameters $\mathrm E\, |n_t|^2 = \sigma_t^2$, half of it in the
    real part and half in the imaginary part.

    The random key of each parameter and step is derived from `seed`.
    [`eqxopt.NoisySGD`][] with the same seed draws the same noise. optax draws other
    numbers from the same distribution.

    **Arguments:**

    - `eta`: $\eta$, in [0, inf), the variance of the first noise. Default 0.01.
    - `gamma`: $\gamma$, in (-inf, inf), how fast the variance falls. Default 0.55.
    - `seed`: an integer or a random key. Default 0.

    **Source:** Neelakantan et al., [Adding Gradient Noise Improves Learning for Very
    Deep Networks](https://arxiv.org/abs/1511.06807), 2015, with its $\gamma$. Its
    $\eta$ are 0.01, 0.3 and 1; the default is the smallest.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.zeros(1000)
        >>> noise = eqxopt.AddNoise(eta=0.01, seed=1).init(x)
        >>> update, noise = noise.update(x, x)
        >>> print(f"{jnp.std(update):.1f}")
        0.1

        ```
    """

    eta: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    gamma: Hyperparameter = hyperparameter("(-inf, inf)", default=0.55)
    seed: Key = key_field(default=0)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        noise = fading_noise(self.seed, grad, self.eta, self.gamma, t)
        return grad + noise, ()
