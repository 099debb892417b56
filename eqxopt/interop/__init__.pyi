from ._from_optax import FromOptax as FromOptax
from ._to_optax import to_optax as to_optax
