"""Transforms one after the other."""

from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    AbstractTransform,
    count_of,
    inner_transforms,
)
from .._abstract.rules import gradients, started
from .._tree import Parameters, replace_fields
from .._types import Self


M = TypeVar("M")


class Chain(AbstractOptimizer):
    """Transforms one after the other, at least one of them an optimizer.

    Each is given the updates of the one before it. What stands before the optimizer
    therefore acts on gradients, and what stands after it on updates.

    **Arguments:** the transforms, in order. A chain may be one of them.

    A chain is indexed by position or by name: `chain[0]`, `chain["AdamW"]`.

    **Raises:** a `ValueError` if there is no optimizer among them.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array([3.0, 4.0])
        >>> opt = eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.SGD(0.5))
        >>> new, opt = opt.init(params).apply(params, params)
        >>> print(new)
        [2.7 3.6]
        >>> opt = opt.replace(learning_rate=0.1)
        >>> print(opt["SGD"].learning_rate)
        0.1

        ```
    """

    transforms: tuple[AbstractTransform, ...]

    def __init__(self, *transforms: AbstractTransform):
        for transform in transforms:
            if not isinstance(transform, AbstractTransform):
                raise TypeError(
                    f"`Chain`: {transform!r} is not a transform. Optax's are made one "
                    "by `eqxopt.interop.FromOptax`."
                )
        if not any(isinstance(x, AbstractOptimizer) for x in transforms):
            names = ", ".join(type(x).__name__ for x in transforms)
            raise ValueError(
                f"`Chain({names})` has no optimizer in it, such as `eqxopt.SGD(0.1)`"
            )
        for transform in transforms[1:]:
            if transform.per_example:
                name = type(transform).__name__
                raise ValueError(
                    f"`Chain`: `{name}` takes the gradients of single examples, and so "
                    "must be the first"
                )
        self.transforms = transforms

    def __getitem__(self, which: int | str) -> AbstractTransform:
        if isinstance(which, int):
            return self.transforms[which]
        inner = inner_transforms(self)
        if which not in inner:
            raise KeyError(f"`Chain` has no `{which}`; it has {', '.join(inner)}")
        return inner[which]

    def init(self, params: PyTree) -> Self:
        return replace_fields(
            started(self, Parameters(params)),
            transforms=tuple(x.init(params) for x in self.transforms),
        )

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self) + 1
        parameters = Parameters(params)
        per_example = self.transforms[0].per_example
        updates = parameters.tree(
            gradients(self, grads, parameters, per_example=per_example)
        )
        transforms = []
        for transform in self.transforms:
            updates, transform = transform.update(
                updates, params, value=value, value_fn=value_fn
            )
            transforms.append(transform)
        return updates, replace_fields(self, count=count, transforms=tuple(transforms))

    def eval_params(self, params: M) -> M:
        for transform in self.transforms:
            if isinstance(transform, AbstractOptimizer):
                params = transform.eval_params(params)
        return params
