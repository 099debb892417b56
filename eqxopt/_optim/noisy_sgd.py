"""Stochastic gradient descent with noise that fades."""

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import Hyperparameter, hyperparameter, Key, key_field
from .._math import fading_noise
from .._types import Leaf, Scalar


class NoisySGD(AbstractLeafwiseOptimizer):
    r"""Gradient descent with Gaussian noise in the gradients, less with every step.

    $$
    \begin{aligned}
    \sigma_t^2 &= \eta / t^\gamma \\
    u_t &= -\alpha_t (g_t + n_t), \qquad n_t \sim \mathcal N(0, \sigma_t^2)
    \end{aligned}
    $$

    The first step is $t = 1$, so its noise has the variance $\eta$; the paper, which
    counts from 0, writes $\eta / (1 + t)^\gamma$. Every entry of every parameter has
    its own noise. That of a complex parameter has $\mathrm E\, |n_t|^2 = \sigma_t^2$,
    half of it real and half imaginary. The random key of each parameter and step is
    derived from `seed`. Two runs with one seed agree. optax derives its keys in another
    way, so its noise for that seed is another draw from the same distribution.
    `jax.vmap` over seeds trains different runs in one program.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `eta`: $\eta$, the variance of the first noise, in [0, inf). Default 0.01.
    - `gamma`: $\gamma$, how fast the variance falls. Default 0.55.
    - `seed`: an integer or a random key. Default 0.

    **Source:** Neelakantan et al., [Adding Gradient Noise Improves Learning for Very
    Deep Networks](https://arxiv.org/abs/1511.06807), 2015, with its $\gamma$ and the
    smallest of its $\eta$: 0.01, 0.3 and 1.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    eta: Hyperparameter = hyperparameter("[0, inf)", default=0.01)
    gamma: Hyperparameter = hyperparameter("(-inf, inf)", default=0.55)
    seed: Key = key_field(default=0)

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        noise = fading_noise(self.seed, grad, self.eta, self.gamma, t)
        return -self.learning_rate * (grad + noise), ()
