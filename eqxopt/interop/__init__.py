"""To and from optax, which is imported only when one of these is called."""

from ._from_optax import FromOptax as FromOptax
from ._to_optax import to_optax as to_optax
