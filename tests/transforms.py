"""The table of transforms, and how the suites make and drive one."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import eqxopt
from eqxopt._abstract.optimizer import add_updates


@dataclass(frozen=True)
class Case:
    """How to make a transform, and what its rule asks for.

    `make` uses options that bring every part of the rule into play. `complex` says
    whether the rule allows complex parameters, `zero` whether it makes zeros of zeros,
    `smooth` whether its updates move smoothly with its hyperparameters, and `coupled`
    whether a parameter's update depends on the other parameters.
    """

    make: Callable[[], eqxopt.AbstractTransform]
    complex: bool = True
    zero: bool = True
    smooth: bool = True
    coupled: bool = False


TRANSFORMS: dict[str, Case] = {
    "AdaptiveGradientClipping": Case(
        lambda: eqxopt.AdaptiveGradientClipping(0.03, eps=0.5)
    ),
    "AddDecayedWeights": Case(lambda: eqxopt.AddDecayedWeights(-0.1), zero=False),
    "AddNoise": Case(lambda: eqxopt.AddNoise(0.01, seed=1), zero=False),
    "CentralizeGradients": Case(eqxopt.CentralizeGradients),
    "ClipByGlobalNorm": Case(lambda: eqxopt.ClipByGlobalNorm(0.1), coupled=True),
    "ClipByNorm": Case(lambda: eqxopt.ClipByNorm(0.1)),
    "ClipByValue": Case(lambda: eqxopt.ClipByValue(0.05)),
    "KeepInBox": Case(lambda: eqxopt.KeepInBox(-0.2, 0.9), complex=False, zero=False),
    "KeepNonnegative": Case(eqxopt.KeepNonnegative, complex=False, zero=False),
    "Normalize": Case(lambda: eqxopt.Normalize(0.1, eps=0.1), coupled=True),
    "Scale": Case(lambda: eqxopt.Scale(0.5)),
    "ScaleByTrustRatio": Case(lambda: eqxopt.ScaleByTrustRatio(0.01, 0.1, 0.1)),
    "Sign": Case(eqxopt.Sign, smooth=False),
    "ZeroNaNs": Case(eqxopt.ZeroNaNs),
}
# Whose gradients have an axis of examples: `test_private.py` keeps it to the contract.
PER_EXAMPLE = {"DifferentiallyPrivateAggregate"}


def downhill(grads, rate=-0.1):
    """A small step along the gradients, for a transform that stands last."""
    return jax.tree.map(lambda g: jnp.asarray(rate, g.dtype) * g, grads)


def step(transform, params, grads):
    """The parameters after one step, which the transform has the last word on."""
    updates, transform = transform.update(downhill(grads), params)
    return add_updates(params, updates), transform
