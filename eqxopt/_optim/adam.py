"""Adam and NAdam, with and without decoupled weight decay."""

import equinox as eqx

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import (
    abs_sq,
    debias,
    debiased_mean,
    divide,
    ema,
    Moments,
    sqrt,
    squarable,
    zero_moments,
)
from .._types import Leaf, Scalar


class Adam(AbstractLeafwiseOptimizer):
    r"""Adam: steps of about the learning rate, whatever the gradient's scale.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t\, \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)
    \end{aligned}
    $$

    This is Algorithm 1 of the paper, as in PyTorch and optax. TensorFlow follows the
    paper's reordered form: the bias correction scales $\varepsilon$. The correction is
    that of a constant $\beta$, also under a schedule: [decays that
    move][decays-that-move].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0, with which
        training can be differentiated as well.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `nesterov`: `True` gives [`eqxopt.NAdam`][]. Default `False`. Keyword only.

    **Source:** Kingma and Ba, [Adam: A Method for Stochastic
    Optimization](https://arxiv.org/abs/1412.6980), 2014, with its defaults.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mu_dtype: DType = dtype_option(default=None)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param, self.mu_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        direction, moments = _direction(self, t, grad, state)
        return -self.learning_rate * direction, moments


class AdamW(AbstractLeafwiseOptimizer):
    r"""Adam with decoupled weight decay.

    $$
    u_t = -\alpha_t \left( \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)
        + \lambda \theta_{t-1} \right)
    $$

    with $\hat m_t$ and $\hat v_t$ of [`eqxopt.Adam`][].
    The decay is multiplied by the learning rate, as in PyTorch and optax. In the paper
    it is multiplied by the schedule alone: for that, and for the corrected decay of
    AdamC, put [`eqxopt.DecoupledWeightDecay`][] around [`eqxopt.Adam`][].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `weight_decay`: $\lambda$, in [0, inf). Default 1e-4.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `nesterov`: `True` gives [`eqxopt.NAdamW`][]. Default `False`. Keyword only.

    **Source:** Loshchilov and Hutter, [Decoupled Weight Decay
    Regularization](https://arxiv.org/abs/1711.05101), 2019.

    !!! example

        Only matrices decay:

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> params = {"weight": jnp.ones((1, 2)), "bias": jnp.ones(2)}
        >>> grads = jax.tree.map(jnp.zeros_like, params)
        >>> is_matrix = lambda path, array: array.ndim > 1
        >>> opt = eqxopt.AdamW(0.1, weight_decay=1.0, mask=is_matrix).init(params)
        >>> params, opt = opt.apply(grads, params)
        >>> print(params["weight"], params["bias"])
        [[0.9 0.9]] [1. 1.]

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mu_dtype: DType = dtype_option(default=None)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param, self.mu_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        direction, moments = _direction(self, t, grad, state)
        return -self.learning_rate * (direction + self.weight_decay * param), moments


class NAdam(AbstractLeafwiseOptimizer):
    r"""Adam with Nesterov momentum: [`eqxopt.Adam`][], but for

    $$
    \hat m_t = \beta_1 m_t / (1 - \beta_1^{t+1}) + (1 - \beta_1)\, g_t / (1 - \beta_1^t)
    $$

    This is optax's rule. The paper multiplies $\hat v_t$ by $\beta_2$ as well, which
    neither optax nor PyTorch does. In PyTorch the weights are $\mu_{t+1}$ and
    $1 - \mu_t$ with $\mu_t = \beta_1 (1 - 0.96^{0.004 t} / 2)$, corrected by the
    products of all $\mu$ so far, while $m$ decays by $\beta_1$. No schedule of `b1`
    gives that.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `nesterov`: `False` gives [`eqxopt.Adam`][]. Default `True`. Keyword only.

    **Source:** Dozat, [Incorporating Nesterov Momentum into
    Adam](https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ), 2016.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mu_dtype: DType = dtype_option(default=None)
    nesterov: bool = eqx.field(default=True, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param, self.mu_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        direction, moments = _direction(self, t, grad, state)
        return -self.learning_rate * direction, moments


class NAdamW(AbstractLeafwiseOptimizer):
    r"""Adam with Nesterov momentum and decoupled weight decay: [`eqxopt.AdamW`][], but
    with $\hat m_t$ of [`eqxopt.NAdam`][].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `weight_decay`: $\lambda$, in [0, inf). Default 1e-4.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `nesterov`: `False` gives [`eqxopt.AdamW`][]. Default `True`. Keyword only.

    **Source:** those of [`eqxopt.NAdam`][] and [`eqxopt.AdamW`][].
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mu_dtype: DType = dtype_option(default=None)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    nesterov: bool = eqx.field(default=True, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param, self.mu_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        direction, moments = _direction(self, t, grad, state)
        return -self.learning_rate * (direction + self.weight_decay * param), moments


def _direction(
    rule: Adam | AdamW | NAdam | NAdamW, t: Scalar, grad: Leaf, state: Moments
) -> tuple[Leaf, Moments]:
    r"""$\hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)$."""
    grad = squarable(grad)
    mu = ema(state.mu, grad, rule.b1)
    nu = ema(state.nu, abs_sq(grad), rule.b2)
    mu_hat = debiased_mean(mu, grad, rule.b1, t, nesterov=rule.nesterov)
    nu_hat = debias(nu, rule.b2, t)
    direction = divide(mu_hat, sqrt(nu_hat + rule.eps_root) + rule.eps)
    return direction, Moments(mu, nu)
