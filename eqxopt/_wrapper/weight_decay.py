"""Weight decay around any optimizer."""

from typing import get_args, Literal

import jax.numpy as jnp

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import rules
from .._abstract.step import Step
from .._abstract.wrapper import AbstractSharedWrapper, AbstractWrapper
from .._compile.once import once_per_shape
from .._dtype import widen
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
    word,
)
from .._math import agreement
from .._tree import Parameters, replace_fields
from .._types import Leaf, Scalar, Self


Decoupled = Literal["times_learning_rate", "independent"]
Convention = Literal["times_learning_rate", "independent", "corrected", "l2"]
INDEPENDENT = "give `convention='independent'`"


class DecoupledWeightDecay(AbstractSharedWrapper):
    r"""Weight decay around any optimizer, in one of the four conventions in use.

    $$
    \begin{aligned}
    \theta_t &= \theta_{t-1} + u_t - \alpha_t \lambda \theta_{t-1}
        && \texttt{times\_learning\_rate} \\
    \theta_t &= \theta_{t-1} + u_t - \lambda \theta_{t-1}
        && \texttt{independent} \\
    \theta_t &= \theta_{t-1} + u_t -
        \frac{\alpha_t^2}{\alpha_{\max}} \lambda \theta_{t-1}
        && \texttt{corrected} \\
    g'_t &= g_t + \lambda \theta_{t-1}
        && \texttt{l2}
    \end{aligned}
    $$

    - `"times_learning_rate"`, the default, is the AdamW of PyTorch and optax. A
        schedule of the learning rate applies to the decay, too. $\alpha_t$ is the
        learning rate of the wrapped optimizer, however deep in other wrappers.
    - `"independent"` is the paper's: the decay can be tuned apart from the learning
        rate. The same $\lambda$ is far stronger here than in the first convention. The
        paper multiplies the decay by the shape of the learning rate's schedule: for
        that give `weight_decay` a schedule of that shape.
    - `"corrected"` keeps the norms of gradients and of weights steady to the end of a
        schedule, where in the other conventions the gradients grow. Around Adam it is
        AdamC. The source means it for weights whose scale does not matter, such as
        those that a normalization layer follows.
    - `"l2"` is the gradient of the penalty $\frac\lambda2 \|\theta\|^2$. It passes
        through the wrapped optimizer's moments, and so is not decoupled.

    The wrapped optimizer's own weight decay is added to this one.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `weight_decay`: $\lambda$, in [0, inf).
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `convention`: one of the four above.
    - `max_learning_rate`: $\alpha_{\max}$, in (0, inf), the peak of the schedule, for
        `"corrected"` only. Keyword only.

    **Raises:** a `ValueError` for `"corrected"` without `max_learning_rate`. In the
    conventions with $\alpha_t$, `init` raises one if the wrapped optimizer has no
    learning rate, or several.

    **Source:** Loshchilov and Hutter, [Decoupled Weight Decay
    Regularization](https://arxiv.org/abs/1711.05101), 2019; Defazio, [Why Gradients
    Rapidly Increase Near the End of Training](https://arxiv.org/abs/2506.02285), 2025,
    for `"corrected"`.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> for convention in "times_learning_rate", "independent", "l2":
        ...     opt = eqxopt.DecoupledWeightDecay(
        ...         eqxopt.Adam(0.1), 0.5, convention=convention
        ...     ).init(params)
        ...     new, _ = opt.apply(jnp.array(1.0), params)
        ...     print(f"{new:.2f}")
        0.85
        0.40
        0.90

        ```
    """

    optimizer: AbstractOptimizer = inner()
    weight_decay: Hyperparameter = hyperparameter("[0, inf)")
    mask: OptionalMask = mask_of("weight_decay", default=None)
    convention: Convention = word(
        "convention", *get_args(Convention), default="times_learning_rate"
    )
    max_learning_rate: OptionalHyperparameter = hyperparameter(
        "(0, inf)", default=None, kw_only=True
    )

    def __check_init__(self) -> None:
        if self.convention == "corrected" and self.max_learning_rate is None:
            raise ValueError(
                "`DecoupledWeightDecay(convention='corrected')`: give "
                "`max_learning_rate`, the peak of the schedule"
            )

    @property
    def needs_inner_rate(self) -> str | None:
        return None if self.convention in ("independent", "l2") else INDEPENDENT

    def start_shared(self, parameters: Parameters) -> Self:
        return self

    def lower(self, step: Step) -> tuple[Step, Self]:
        if self.convention != "l2":
            return step, self
        every_rule = rules(replace_fields(self, optimizer=None), step.parameters)
        penalized = [
            grad
            if grad is None or rule.mask is False
            else _penalized(grad, param, rule.weight_decay)
            for rule, grad, param in zip(every_rule, step.grads, step.parameters.arrays)
        ]
        return step.with_grads(penalized), self

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        if self.mask is False or self.convention == "l2":
            return update, ()
        if self.convention == "independent":
            strength = self.weight_decay
        elif self.convention == "corrected":
            assert self.max_learning_rate is not None
            relative = self.inner_rate / self.max_learning_rate
            strength = self.inner_rate * relative * self.weight_decay
        else:
            strength = self.inner_rate * self.weight_decay
        return update - strength * param, ()

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: tuple[()]) -> Leaf:
        return evaluated


@once_per_shape
def _penalized(grad: Leaf, param: Leaf, weight_decay: Scalar) -> Leaf:
    param = widen(param)
    return grad.astype(param.dtype) + weight_decay * param


class CautiousWeightDecay(AbstractWrapper):
    r"""Weight decay only of the entries that the update shrinks, too.

    $$
    \theta_t = \theta_{t-1} + u_t -
        \alpha_t \lambda\, [-u_t \odot \theta_{t-1} \ge 0] \odot \theta_{t-1}
    $$

    An entry decays where the optimizer's direction $-u_t$ has the entry's sign, or is
    0. Where the loss asks for larger weights, no decay holds them back.

    **Arguments:**

    - `optimizer`: any optimizer, without a weight decay of its own.
    - `weight_decay`: $\lambda$, in [0, inf).
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `convention`: `"times_learning_rate"`, the default and the paper's, or
        `"independent"`, without $\alpha_t$, as in
        [`DecoupledWeightDecay`][eqxopt.DecoupledWeightDecay].

    **Raises:** in the first convention, `init` raises a `ValueError` if the wrapped
    optimizer has no learning rate, or several.

    **Source:** Chen et al., [Cautious Weight
    Decay](https://arxiv.org/abs/2510.12402), 2025.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array([1.0, 1.0])
        >>> opt = eqxopt.CautiousWeightDecay(eqxopt.SGD(0.1), 1.0).init(params)
        >>> print(opt.apply(jnp.array([1.0, -1.0]), params)[0])
        [0.8 1.1]

        ```
    """

    optimizer: AbstractOptimizer = inner()
    weight_decay: Hyperparameter = hyperparameter("[0, inf)")
    mask: OptionalMask = mask_of("weight_decay", default=None)
    convention: Decoupled = word(
        "convention", *get_args(Decoupled), default="times_learning_rate"
    )

    @property
    def needs_inner_rate(self) -> str | None:
        return None if self.convention == "independent" else INDEPENDENT

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        if self.mask is False:
            return update, ()
        strength = self.weight_decay
        if self.convention == "times_learning_rate":
            strength = self.inner_rate * strength
        shrinks = agreement(update, param) <= 0
        return update - jnp.where(shrinks, strength * param, 0), ()

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: tuple[()]) -> Leaf:
        return evaluated
