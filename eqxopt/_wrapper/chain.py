"""Transforms one after the other."""

from .._abstract.nested import inner_transforms
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun
from .._abstract.step import Step
from .._abstract.transform import AbstractTransform, count_of
from .._math import plus_one
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaves, Self


class Chain(AbstractOptimizer):
    """Transforms one after the other, at least one of them an optimizer.

    Each is given the updates of the one before it. So transforms before the optimizer
    act on gradients, and transforms after it on updates.

    **Arguments:** the transforms, in order. A chain may be one of them.

    Index a chain by position or by name: `chain[0]`, `chain["AdamW"]`.

    **Raises:** a `ValueError` if none of them is an optimizer.

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
            if isinstance(transform, tuple | list):
                raise TypeError(
                    "`Chain` takes transforms one by one, and not in a "
                    f"{type(transform).__name__}: `eqxopt.Chain(*transforms)`"
                )
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

    @property
    def per_example(self) -> bool:
        """Whether the first transform takes the gradients of single examples."""
        return self.transforms[0].per_example

    def start(self, parameters: Parameters) -> Self:
        transforms = tuple(x.start(parameters) for x in self.transforms)
        return replace_fields(begun(self, parameters), transforms=transforms)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        transforms = []
        for transform in self.transforms:
            updates, transform = transform.advance(step)
            step = step.with_grads(updates)
            transforms.append(transform)
        new = replace_fields(self, count=count, transforms=tuple(transforms))
        return step.grads, new

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        arrays = parameters.arrays
        for transform in self.transforms:
            if isinstance(transform, AbstractOptimizer):
                arrays = transform.evaluate(parameters)
                parameters = parameters.exchange(arrays)
        return arrays
