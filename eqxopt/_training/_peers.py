"""What the processes of one training run agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


class Peers:
    """The processes that train one model together. Alone, a process agrees with itself.

    All of them ask the same questions in the same order.
    """

    def __init__(self, caller: str, place: NamedSharding | None):
        here = place is None or place.is_fully_addressable
        self.several = not here
        if place is not None and self.several:
            processes = {device.process_index for device in place.device_set}
            if len(processes) < jax.process_count():
                raise ValueError(
                    f"{caller}: the mesh of the model has the devices of "
                    f"{len(processes)} of {jax.process_count()} processes. Make it of "
                    "those of one process, or of all"
                )

    @property
    def leads(self) -> bool:
        """Whether this process does what only one should do."""
        return not self.several or jax.process_index() == 0

    def of_all(self, *numbers: int) -> np.ndarray:
        """The numbers of all processes, a row for each."""
        return gathered(*numbers) if self.several else np.array([numbers])


def gathered(*numbers: int) -> np.ndarray:
    """The numbers of all processes that JAX knows, a row for each."""
    own = np.array(numbers, np.int32)
    return np.asarray(multihost_utils.process_allgather(own)).reshape(-1, len(own))


ALONE = Peers("", None)
