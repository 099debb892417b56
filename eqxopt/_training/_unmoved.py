"""Parameters in bfloat16 or float16 that a run has not moved."""

import warnings
from typing import Any

import jax
import numpy as np

from .._abstract.narrow import loses_small_updates, resolution
from .._abstract.transform import count_of
from .._tree import Parameters
from .._types import AnyLeaf


# How many entries of a parameter we look at, spread over the whole of it.
_ENTRIES = 1024
# A short run may leave entries where they are for other reasons.
_LEAST_UPDATES = 10
_LARGE_SHARE = 0.5


class Unmoved:
    """Remembers some entries of each parameter that loses small updates, and warns if
    many of them are the same after training."""

    def __init__(self, model: Any, opt: Any):
        parameters = Parameters(model)
        loses = loses_small_updates(opt, parameters)
        self._places = [
            i
            for i, (x, array) in enumerate(zip(loses, parameters.arrays))
            if x and _own_part(array).size
        ]
        self._first = self._samples(parameters)
        self._count = int(count_of(opt)) if self._places else 0

    def warn(self, model: Any, opt: Any) -> None:
        """Warn about the parameter of which the largest share has not moved."""
        if not self._places or int(count_of(opt)) - self._count < _LEAST_UPDATES:
            return
        parameters = Parameters(model)
        last = self._samples(parameters)
        shares = [np.mean(old == new) for old, new in zip(self._first, last)]
        worst = int(np.argmax(shares))
        if shares[worst] < _LARGE_SHARE:
            return
        i = self._places[worst]
        dtype = parameters.arrays[i].dtype
        warnings.warn(
            f"`fit`: {shares[worst]:.0%} of the entries of {parameters.path(i)} never "
            f"moved. It is {dtype}, in which updates below {resolution(dtype)} of an "
            "entry are lost. Keep them with `eqxopt.MasterWeights(optimizer)`, or "
            "without any memory with `eqxopt.StochasticRounding(optimizer)`; give "
            "parameters that are not to move to `eqxopt.Freeze()`",
            stacklevel=3,
        )

    def _samples(self, parameters: Parameters) -> list[np.ndarray]:
        arrays = [parameters.arrays[i] for i in self._places]
        parts = [_own_part(x) for x in arrays]
        # Nothing on one device can be computed while all of a mesh are set as the place
        # of computation.
        if jax.sharding.get_abstract_mesh().empty:
            return jax.device_get([_compiled_sample(x) for x in parts])
        return [_sampled(np.asarray(x)) for x in parts]


def _own_part(x: AnyLeaf) -> AnyLeaf:
    """One shard, if the array lies in several."""
    return x.addressable_shards[0].data


def _sampled(x: Any) -> Any:
    indices = np.linspace(0, x.size - 1, min(x.size, _ENTRIES)).astype(np.int32)
    return x.reshape(-1)[indices]


_compiled_sample = jax.jit(_sampled)
