"""Parameters in bfloat16 or float16, and what training loses of them."""

import jax.numpy as jnp

from .._dtype import is_narrow
from .._tree import Parameters
from .nested import inner_transforms
from .transform import AbstractTransform


def loses_small_updates(
    transform: AbstractTransform, parameters: Parameters
) -> list[bool]:
    """Whether each parameter is narrow, and `transform` rounds it to nearest in every
    step."""
    loses = [is_narrow(array.dtype) for array in parameters.arrays]
    if transform.keeps_small_updates or not any(loses):
        return [False] * len(loses)
    choose = getattr(transform, "groups", None)
    labels = None if choose is None else choose(parameters)
    for label, inner in inner_transforms(transform).items():
        own = [labels is None or x == label for x in (labels or loses)]
        places = [i for i, x in enumerate(own) if x]
        for i, x in zip(places, loses_small_updates(inner, parameters.only(own))):
            loses[i] &= x
    return loses


def resolution(dtype: jnp.dtype) -> str:
    """What an update of a parameter of `dtype` must exceed, relative to an entry."""
    return f"2^-{jnp.finfo(dtype).nmant + 1}"
