"""L-BFGS, with a line search or with a learning rate."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool

from .._fields import hyperparameter, OptionalHyperparameter
from .._line_search.abstract import AbstractLineSearch
from .._line_search.zoom import ZoomLineSearch
from .._math import plus_one_if, zero_count
from .._number import integer
from .._tree import Parameters, replace_fields
from .._types import Count, Leaf, Self
from ._memory import CurvatureMemory, empty_memory, preconditioned, with_pair
from ._pairs import has_curvature, Last, Pair
from .abstract import AbstractNewtonOptimizer, Active, Arrays, as_search


class LBFGS(AbstractNewtonOptimizer):
    r"""L-BFGS: multiplies the gradient by an inverse Hessian estimated from the last
    steps, and finds the length of each step by a line search.

    $$
    \begin{aligned}
    u_t &= -\eta_t\, \alpha_t\, H_t g_t \\
    H_{j+1} &= (I - \rho_j s_j y_j^\top) H_j (I - \rho_j y_j s_j^\top)
        + \rho_j s_j s_j^\top, \qquad \rho_j = 1 / \langle s_j, y_j \rangle
    \end{aligned}
    $$

    A pair is a change $s$ of the parameters and the change $y$ of their gradients. The
    recursion runs over the last $m$ pairs, from the oldest to the newest. It starts
    from $\gamma_t I$, where $\gamma_t = \langle s, y \rangle / \|y\|^2$ for the newest
    pair, and $\gamma_1 = \min(1, 1 / \|g_1\|)$. Products are taken over all parameters
    together, with $\langle x, y \rangle = \operatorname{Re} x^* y$ for complex ones.
    Without a line search $\eta_t = 1$.

    With a line search, `apply` needs the loss, and the loss as a function of the model,
    both on the same data as the gradients:

    ```python
    value, grads = opt.value_and_grad(loss_fn, model)
    model, opt = opt.apply(grads, model, value=value, value_fn=loss_fn)
    ```

    The search does not evaluate the point where it begins. It keeps the loss and the
    gradients at the point where it ends, and `opt.value_and_grad` returns these without
    evaluating anything. This holds as long as the loss function is the same and `model`
    is what `apply` returned. For another batch, use `equinox.filter_value_and_grad`.

    A pair is used only if $\langle s, y \rangle > 0$, which zoom ensures. Optax also
    uses pairs with a negative product, and then $H_t g_t$ may point uphill. With a line
    search, $s$ and $y$ connect the two ends of one search, so a pair never mixes the
    gradients of two batches, as it does in optax and PyTorch. A line search needs the
    gradients of `value_fn`: do not clip them or change them otherwise.

    Without a line search, training can be differentiated in both modes. With one, only
    in forward mode, as by `jax.jvp` and `jax.jacfwd`: JAX cannot differentiate a loop
    of unknown length in reverse.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). It scales the direction before the search.
        Default `None`, for 1.
    - `memory_size`: $m$, in [1, inf), the number of pairs kept. Default 10. The state
        has $2m + 1$ times the size of the model, $2m + 2$ without a search.
    - `scale_init_precond`: whether to start from $\gamma_t I$, not $I$. Default `True`.
    - `linesearch`: an [`eqxopt.ZoomLineSearch`][], the default, an
        [`eqxopt.BacktrackingLineSearch`][], or `None` for steps at the learning rate.

    **Raises:** a `ValueError` if there is a line search and `apply` is not given
    `value` and `value_fn`.

    **Source:** Liu and Nocedal, [On the limited memory BFGS method for large scale
    optimization](https://doi.org/10.1007/BF01589116), 1989; Nocedal and Wright,
    [Numerical Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Section
    7.2. The defaults and the first $\gamma$ are those of optax.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.LBFGS().init(x)
        >>> for _ in range(3):
        ...     value, grads = opt.value_and_grad(f, x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        ...     print(f"{opt.value:.2f}")
        7.52
        0.00
        0.00

        ```
    """

    uses_value_fn = True

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    memory_size: int = integer("[1, inf)", default=10)
    scale_init_precond: bool = eqx.field(default=True, static=True)
    linesearch: AbstractLineSearch | None = eqx.field(
        converter=as_search, default_factory=ZoomLineSearch
    )
    pairs: Count = eqx.field(default=None, init=False)
    """The pairs stored since `init`."""

    def begin(self, parameters: Parameters) -> Self:
        return replace_fields(self, pairs=zero_count())

    def init_leaf(self, param: Leaf, last: Last) -> CurvatureMemory:
        return empty_memory(last, self.memory_size)

    def choose(self, active: Active) -> tuple[Self, Arrays, Active]:
        vectors = preconditioned(
            active.states,
            active.grads,
            self.pairs - 1,
            scale_identity=self.scale_init_precond,
        )
        return self, active.directions(vectors), active

    def learn(
        self, active: Active, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Self, list[Any]]:
        is_stored = is_known & has_curvature(changes)
        index = self.pairs % self.memory_size
        memories = [
            with_pair(memory, pair, index, is_stored)
            for memory, pair in zip(active.states, changes)
        ]
        return replace_fields(self, pairs=plus_one_if(is_stored, self.pairs)), memories
