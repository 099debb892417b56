"""RMSProp."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter, OptionalHyperparameter
from .._math import abs_sq, divide, ema, lerp, one_minus_power, sqrt, squarable
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class ScaleAndTrace(NamedTuple):
    """The running mean square of a parameter's gradient, if centred about its running
    mean `mu`, and with momentum the decaying sum of its steps."""

    nu: SecondMoment
    mu: FirstMoment | None
    trace: FirstMoment | None


class RMSProp(AbstractLeafwiseOptimizer):
    r"""The gradient divided by the root of its running mean square.

    $$
    v_t = \rho v_{t-1} + (1 - \rho)\, |g_t|^2, \qquad
    x_t = \alpha_t\, g_t / \sqrt{v_t + \varepsilon}, \qquad u_t = -x_t
    $$

    with $v_0$ = `initial_scale`. With `eps_in_sqrt=False` the denominator is
    $\sqrt{v_t} + \varepsilon$. With `momentum` $\mu$,

    $$
    m_t = x_t + \mu\, m_{t-1}, \qquad
    u_t = \begin{cases}
        -m_t & \text{classical} \\
        -(x_t + \mu\, m_t) & \text{Nesterov}
    \end{cases}
    $$

    With `centered=True` $v_t$ is the variance about the running mean of the gradient,
    and has a recursion of its own,

    $$
    \begin{aligned}
    d_t &= g_t - \bar g_{t-1}, \qquad \bar g_t = \bar g_{t-1} + (1 - \rho)\, d_t \\
    v_t &= \rho v_{t-1} + (1 - \rho) \rho\, |d_t|^2
    \end{aligned}
    $$

    This equals the usual difference of the mean of $|g|^2$ and $|\bar g|^2$, but does
    not cancel and so never falls below 0. With `bias_correction=True` each mean is
    divided by the sum of its weights, $1 - \rho^t$.

    By default $\varepsilon$ is inside the root, as in TensorFlow and optax; for the
    numbers of PyTorch, where it is outside, set `eps_in_sqrt=False`. The learning rate
    is inside the momentum, as in TensorFlow and optax; in PyTorch it is outside, which
    differs where the rate changes.

    **Arguments:** the last two are keyword only.

    - `learning_rate`: $\alpha$, in [0, inf).
    - `decay`: $\rho$, in [0, 1). Default 0.9.
    - `eps`: $\varepsilon$, in [0, inf). Default 1e-8.
    - `initial_scale`: $v_0$, in [0, inf). Default 0, as in PyTorch; TensorFlow 1 has 1.
    - `centered`: whether to divide by the standard deviation. Default `False`.
    - `momentum`: $\mu$, in [0, 1). Default `None`, no momentum.
    - `nesterov`: whether to look ahead along the momentum. Default `False`.
    - `eps_in_sqrt`: whether $\varepsilon$ is inside the root. Default `True`.
    - `bias_correction`: whether to correct the bias. Default `False`.

    **Source:** Tieleman and Hinton, [Lecture
    6.5](https://www.cs.toronto.edu/~hinton/coursera/lecture6/lec6.pdf), 2012; centred
    and with momentum, Graves, [Generating Sequences With Recurrent Neural
    Networks](https://arxiv.org/abs/1308.0850), 2013.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    decay: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    initial_scale: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    centered: bool = eqx.field(default=False, static=True)
    momentum: OptionalHyperparameter = hyperparameter("[0, 1)", default=None)
    nesterov: bool = eqx.field(default=False, static=True)
    eps_in_sqrt: bool = eqx.field(default=True, static=True, kw_only=True)
    bias_correction: bool = eqx.field(default=False, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> ScaleAndTrace:
        return ScaleAndTrace(
            nu=real_zeros_like(param) + self.initial_scale,
            mu=zeros_like(param) if self.centered else None,
            trace=None if self.momentum is None else zeros_like(param),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: ScaleAndTrace
    ) -> tuple[Leaf, ScaleAndTrace]:
        grad = squarable(grad)
        nu, mu, trace = state
        weights = one_minus_power(self.decay, t) if self.bias_correction else None
        square = abs_sq(grad)
        if mu is not None:
            gain = 1 - self.decay
            if weights is not None:
                # It is 1 in the first step, and rounding must not take it beyond.
                gain = jnp.minimum(gain / weights, 1)
            square = (1 - gain) * abs_sq(grad - mu)
            mu = lerp(mu, grad, gain)
        nu = ema(nu, square, self.decay)
        nu_hat = nu if weights is None else nu / weights
        root = sqrt(nu_hat + self.eps) if self.eps_in_sqrt else sqrt(nu_hat) + self.eps
        update = -self.learning_rate * divide(grad, root)
        momentum = self.momentum
        if momentum is not None and trace is not None:
            trace = update + momentum * trace
            update = update + momentum * trace if self.nesterov else trace
        return update, ScaleAndTrace(nu, mu, trace)
