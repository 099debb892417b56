"""The suite runs with the shapes in the annotations checked."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from eqxopt._math.moments import zero_moments
from eqxopt._math.small import ema


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        ema(jnp.ones(2), jnp.ones(3), jnp.asarray(0.9))


def test_dtypes_are_checked():
    with pytest.raises(TypeCheckError):
        zero_moments(jnp.ones(2, dtype=int))
