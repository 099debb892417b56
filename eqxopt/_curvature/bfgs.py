"""BFGS, and the self-scaled members of Broyden's family."""

import jax.numpy as jnp

from .._math import sqrt
from .._types import Scalar
from ._dense import AbstractDenseOptimizer, Products


class BFGS(AbstractDenseOptimizer):
    r"""BFGS: multiplies the gradient by a dense inverse Hessian estimated from all
    steps, and finds the length of each step by a line search.

    $$
    \begin{aligned}
    u_t &= -\eta_t\, \alpha_t\, H_t g_t \\
    H_{t+1} &= (I - \rho s y^\top) H_t (I - \rho y s^\top) + \rho s s^\top, \qquad
        \rho = 1 / s^\top y
    \end{aligned}
    $$

    $s = u_t$ is the change of all parameters, one after the other, and $y$ that of
    their gradients. $H$ begins as $\gamma I$ with $\gamma = \min(1, 1 / \|g_1\|)$, and
    as $s^\top y / y^\top y\, I$ before its first update. A complex parameter counts as
    its real and its imaginary parts.

    With a line search, `apply` needs `value` and `value_fn`, and `opt.value_and_grad`
    gives what the last search has found, as for [`eqxopt.LBFGS`][].

    The method is for losses without noise, and for at most some thousands of
    parameters: $H$ takes $8 N^2$ bytes for $N$ parameters in float64, 200 MB for 5,000,
    and a step reads it three times. Below a gradient of about 1e-4 it needs float64.
    For more parameters take [`eqxopt.LBFGS`][].

    A pair is used only if $s^\top y > 0$, which zoom ensures. $H$ begins again if its
    direction does not go downhill, or if the search finds no lower point. If three
    searches along the gradient find none either, the last two from steps about a
    million times shorter each, the optimizer is at a minimum to rounding: it makes no
    update and evaluates nothing as long as the gradients stay the same. In a flat
    valley or near a saddle, where the loss changes by rounding only, it goes on as long
    as the gradients become smaller, and for at most 20 other steps. A parameter without
    gradient is a constant, and changes of it count as 0.

    Without a line search, training can be differentiated in both modes, and otherwise
    only in forward mode.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf), one for the whole model. It scales the
        direction before the search. Default `None`, for 1.
    - `linesearch`: an [`eqxopt.ZoomLineSearch`][], the default, an
        [`eqxopt.BacktrackingLineSearch`][], or `None` for steps at the learning rate.
    - `max_bytes`: the largest $H$ that `init` may make, in [0, inf). Default 4 GiB.
        Keyword only.

    **Raises:** a `ValueError` if $H$ would have more bytes than `max_bytes`, or if
    there is a line search and `apply` is not given `value` and `value_fn`.

    **Source:** Nocedal and Wright, [Numerical
    Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Section 6.1.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> f = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> x = jnp.array([-1.2, 1.0])
        >>> opt = eqxopt.BFGS().init(x)
        >>> for _ in range(40):
        ...     value, grads = opt.value_and_grad(f, x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        >>> print(x.round(3), f"{opt.value:.0e}")
        [1. 1.] 0e+00

        ```
    """

    def weights(self, products: Products) -> tuple[Scalar, Scalar]:
        h = products.h
        return jnp.zeros_like(h), jnp.where(products.is_first, h, 1)


class SSBFGS(AbstractDenseOptimizer):
    r"""Self-scaled BFGS: BFGS that also shrinks the old inverse Hessian where it is too
    large.

    $$
    H_{t+1} = \frac{1}{\tau} (I - \rho s y^\top) H_t (I - \rho y s^\top) +
        \rho s s^\top, \qquad
    \tau = \min\left(1, \frac{s^\top y}{s^\top H_t^{-1} s}\right)
    $$

    $s^\top H_t^{-1} s = -\alpha \eta\, s^\top g_t$ needs no inverse. In the first
    update $\tau = y^\top H y / s^\top y$, as in BFGS. Everything else is as in
    [`eqxopt.BFGS`][].

    **Arguments:** as for [`eqxopt.BFGS`][].

    **Raises:** as [`eqxopt.BFGS`][].

    **Source:** Al-Baali, [Numerical experience with a class of self-scaling
    quasi-Newton algorithms](https://doi.org/10.1023/A:1022608410710), 1998; Urbán et
    al., [Unveiling the optimization process of physics informed neural
    networks](https://arxiv.org/abs/2405.04230), 2025.
    """

    def weights(self, products: Products) -> tuple[Scalar, Scalar]:
        h, b, _, is_first, _ = products
        return jnp.zeros_like(h), jnp.where(is_first, h, _shrinking(b))


class SSBroyden(AbstractDenseOptimizer):
    r"""Self-scaled Broyden: chooses in each step the member of Broyden's family and the
    scale that keep the inverse Hessian well conditioned.

    $$
    \begin{aligned}
    H_{t+1} &= \frac{1}{\tau} \left( H_t - \frac{H_t y\, (H_t y)^\top}{y^\top H_t y}
        + \phi\, (y^\top H_t y)\, v v^\top \right) + \rho s s^\top, \qquad
        v = \rho s - \frac{H_t y}{y^\top H_t y} \\
    h &= \rho\, y^\top H_t y, \qquad b = \rho\, s^\top H_t^{-1} s, \qquad
        a = b h - 1 \ge 0 \\
    r &= \min\left(1, h \left(1 - \sqrt{a / (1 + a)}\right)\right), \qquad
        \theta = \max\left( \frac{r - 1}{a}, \min\left( \frac1r, \frac{1 - b}{b}
        \right) \right) \\
    \phi &= \frac{1 - \theta}{1 + a \theta}, \qquad \sigma = 1 + a \theta, \qquad
        \kappa = \min(1, 1 / b), \qquad \tilde\sigma = \sigma^{1 / (1 - N)} \\
    \tau &= \begin{cases}
        \min(\kappa \tilde\sigma, \sigma) & \text{if } \theta \le 0 \\
        \kappa \min(\tilde\sigma, 1 / \theta) & \text{otherwise}
    \end{cases}
    \end{aligned}
    $$

    In the first update $\tau = h / \sigma$. $\theta = 0$ and $\tau = 1$ would be
    [`eqxopt.BFGS`][], and everything else is as there.

    On networks that fit a smooth function or solve a differential equation it reaches
    losses several orders of magnitude below those of BFGS with the same evaluations, in
    float64. On other problems it may be the slower one.

    **Arguments:** as for [`eqxopt.BFGS`][].

    **Raises:** as [`eqxopt.BFGS`][].

    **Source:** Al-Baali and Khalfan, [A combined class of self-scaling and modified
    quasi-Newton methods](https://doi.org/10.1007/s10589-010-9366-3), 2012; Urbán et
    al., [Unveiling the optimization process of physics informed neural
    networks](https://arxiv.org/abs/2405.04230), 2025.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(jnp.cosh(x) * jnp.array([1.0, 10.0]))
        >>> x = jnp.array([2.0, 1.0])
        >>> opt = eqxopt.SSBroyden().init(x)
        >>> for _ in range(8):
        ...     value, grads = opt.value_and_grad(f, x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        >>> print(f"{opt.value:.3f}")
        11.000

        ```
    """

    def weights(self, products: Products) -> tuple[Scalar, Scalar]:
        h, b, a, is_first, size = products
        r = jnp.minimum(1, h * (1 - sqrt(a / (1 + a))))
        # Where a is 0, s and H y are parallel, and every member is the same one.
        least = (r - 1) / jnp.maximum(a, jnp.finfo(a.dtype).eps)
        theta = jnp.maximum(least, jnp.minimum(1 / r, (1 - b) / b))
        sigma = 1 + a * theta
        root = sigma ** (1 / (1 - size)) if size > 1 else jnp.ones_like(sigma)
        kappa = _shrinking(b)
        above = kappa * jnp.minimum(root, 1 / jnp.where(theta > 0, theta, 1))
        below = jnp.minimum(kappa * root, sigma)
        tau = jnp.where(theta > 0, above, below)
        return theta, jnp.where(is_first, h / sigma, tau)


def _shrinking(b: Scalar) -> Scalar:
    return jnp.minimum(1, 1 / b)
