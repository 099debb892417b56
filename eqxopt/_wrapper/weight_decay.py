"""Weight decay around any optimizer."""

from collections.abc import Callable
from typing import Any, get_args, Literal, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._abstract.optimizer import AbstractOptimizer, count_of, inner
from .._abstract.rules import gradients, rules, started
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
from ._learning_rate import learning_rates, with_learning_rate


M = TypeVar("M")
Decoupled = Literal["times_learning_rate", "independent"]
Convention = Literal["times_learning_rate", "independent", "corrected", "l2"]
INDEPENDENT = "give `convention='independent'`"


class DecoupledWeightDecay(AbstractOptimizer):
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

    - `"times_learning_rate"`, the default, is what PyTorch and optax call AdamW. A
        schedule of the learning rate is one of the decay too. $\alpha_t$ is read from
        the wrapped optimizer, however deep in other wrappers.
    - `"independent"` is the paper's: the decay can be tuned apart from the learning
        rate. Where the rate has a schedule, the paper multiplies the decay with its
        shape too: give `weight_decay` a schedule of that shape. The same $\lambda$ is
        far stronger than in the first convention.
    - `"corrected"` keeps the norms of gradients and of weights steady to the end of a
        schedule, where the others let gradients grow. Around Adam it is AdamC. The
        source means it for weights whose scale does not matter, such as those that a
        normalization layer follows.
    - `"l2"` is the gradient of the penalty $\frac\lambda2 \|\theta\|^2$. It passes
        through the wrapped optimizer's moments, and so is not decoupled at all.

    What the wrapped optimizer decays by itself comes on top.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `weight_decay`: $\lambda \ge 0$.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.
    - `convention`: one of the four above.
    - `max_learning_rate`: $\alpha_{\max} > 0$, the peak of the schedule, for
        `"corrected"` only. Keyword only.

    **Raises:** where there is $\alpha_t$ a `ValueError` if the wrapped optimizer has no
    learning rate, or several; also for `"corrected"` without `max_learning_rate`.

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

    def init(self, params: PyTree) -> Self:
        return _init(self, params)

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        if self.convention != "l2":
            return _decayed(self, _minus, grads, params, value, value_fn)
        count = count_of(self) + 1
        parameters = Parameters(params)
        penalized = gradients(self, grads, parameters)
        for i, rule in enumerate(rules(self, parameters)):
            grad, param = penalized[i], parameters.arrays[i]
            if grad is not None and rule.mask is not False:
                penalized[i] = _plus(grad, param, rule.weight_decay)
        updates, optimizer = self.optimizer.update(
            parameters.tree(penalized), params, value=value, value_fn=value_fn
        )
        return updates, replace_fields(self, optimizer=optimizer, count=count)

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


class CautiousWeightDecay(AbstractOptimizer):
    r"""Weight decay of the entries that the update shrinks anyway.

    $$
    \theta_t = \theta_{t-1} + u_t -
        \alpha_t \lambda\, [-u_t \odot \theta_{t-1} \ge 0] \odot \theta_{t-1}
    $$

    An entry decays where the optimizer's direction $-u_t$ has its sign, or is 0. Where
    the loss asks for larger weights, nothing holds against it.

    **Arguments:**

    - `optimizer`: any optimizer, without a weight decay of its own.
    - `weight_decay`: $\lambda \ge 0$.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.
    - `convention`: `"times_learning_rate"`, the default and the paper's, or
        `"independent"`, without $\alpha_t$, as in
        [`DecoupledWeightDecay`][eqxopt.DecoupledWeightDecay].

    **Raises:** in the first convention a `ValueError` if the wrapped optimizer has no
    learning rate, or several.

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

    def init(self, params: PyTree) -> Self:
        return _init(self, params)

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        return _decayed(self, _minus_where_smaller, grads, params, value, value_fn)

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


WeightDecay = TypeVar("WeightDecay", DecoupledWeightDecay, CautiousWeightDecay)


def _init(wrapper: WeightDecay, params: PyTree) -> WeightDecay:
    parameters = Parameters(params)
    new = started(wrapper, parameters)
    if wrapper.convention in ("times_learning_rate", "corrected"):
        with_learning_rate(wrapper, wrapper.optimizer, INDEPENDENT)  # for its error
    return replace_fields(new, optimizer=wrapper.optimizer.init(params))


def _decayed(
    wrapper: WeightDecay,
    minus: Callable[[Array, Array, Array], Array],
    grads: PyTree,
    params: PyTree,
    value: Any,
    value_fn: Callable[..., Any] | None,
) -> tuple[PyTree, WeightDecay]:
    """The updates of the wrapped optimizer minus the decay."""
    count = count_of(wrapper) + 1
    parameters = Parameters(params)
    grad_leaves = gradients(wrapper, grads, parameters)
    inner_updates, optimizer = wrapper.optimizer.update(
        grads, params, value=value, value_fn=value_fn
    )
    updates = parameters.align(inner_updates, "the updates")
    for i, strength in enumerate(_strengths(wrapper, parameters)):
        trained = grad_leaves[i] is not None and updates[i] is not None
        if trained and strength is not None:
            updates[i] = minus(updates[i], parameters.arrays[i], strength)
    return parameters.tree(updates), replace_fields(
        wrapper, optimizer=optimizer, count=count
    )


def _strengths(wrapper: WeightDecay, parameters: Parameters) -> list[Scalar | None]:
    """What each parameter decays by, relative to itself; `None` where it does not."""
    every_rule = rules(wrapper, parameters)
    strengths: list[Scalar | None] = [
        None if rule.mask is False else rule.weight_decay for rule in every_rule
    ]
    if wrapper.convention == "independent":
        return strengths
    rates = learning_rates(wrapper, wrapper.optimizer, parameters, INDEPENDENT)
    if wrapper.convention == "corrected":
        highest = [getattr(rule, "max_learning_rate") for rule in every_rule]
        rates = [rate * (rate / most) for rate, most in zip(rates, highest)]
    return [
        None if strength is None else rate * strength
        for rate, strength in zip(rates, strengths)
    ]


@once_per_shape
def _plus(grad: Leaf, param: Leaf, weight_decay: Scalar) -> Leaf:
    param = widen(param)
    return grad.astype(param.dtype) + weight_decay * param


@once_per_shape
def _minus(update: Leaf, param: Leaf, strength: Scalar) -> Leaf:
    return update - strength * param.astype(update.dtype)


@once_per_shape
def _minus_where_smaller(update: Leaf, param: Leaf, strength: Scalar) -> Leaf:
    param = param.astype(update.dtype)
    decay = jnp.where(agreement(update, param) <= 0, strength * param, 0)
    return update - decay
