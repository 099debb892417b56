"""What a checkpoint stores: the arrays and numbers of a tree, by their paths."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Sharding
from jaxtyping import PyTree

from .._abstract.paths import leaves_by_path
from .._places import place_of
from .._tree import is_key, show_path


_STORED = (
    jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct | int | float | complex
)
_PYTHON, _KEY = "Python ", "key "


class Kind(NamedTuple):
    """The dtype and shape of an entry. A Python number has its type for a dtype, and
    a random key its algorithm."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}" if self.shape else self.dtype

    def array(self) -> jax.ShapeDtypeStruct:
        """The entry as a selector sees it."""
        if self.dtype.startswith(_KEY):
            impl = self.dtype.removeprefix(_KEY)
            dtype = jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype
        else:
            dtype = jnp.dtype(self.dtype.removeprefix(_PYTHON))
        return jax.ShapeDtypeStruct(self.shape, dtype)


def entries_of(tree: PyTree, caller: str) -> dict[str, Any]:
    """The leaves of `tree` that a checkpoint stores, by their paths."""
    entries: dict[str, Any] = {}
    for path, leaf in leaves_by_path(tree):
        if isinstance(leaf, _STORED):
            if jtu.keystr(path) in entries:
                raise ValueError(
                    f"`{caller}`: the tree has two entries at {show_path(path)}"
                )
            entries[jtu.keystr(path)] = leaf
    return entries


def kind_of(x: Any) -> Kind:
    if not hasattr(x, "dtype"):
        return Kind(f"{_PYTHON}{type(x).__name__}", ())
    if not is_key(x):
        return Kind(str(x.dtype), tuple(x.shape))
    # Only a traced key tells its algorithm whatever `x` is, a shape or a deleted array.
    impls: list[Any] = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), x)
    return Kind(f"{_KEY}{impls[0]}", tuple(x.shape))


def _is_extension(dtype: np.dtype) -> bool:
    """Whether this is bfloat16 or one of its kin, which NumPy's files do not have."""
    return dtype.isbuiltin == 2


def stored_form(name: str, x: Any) -> np.ndarray:
    """The entry `x` as an array that any `.npz` can hold."""
    where = f"`save`: {name or 'the root'}"
    if isinstance(x, Tracer):
        raise TypeError(f"{where} is a tracer: call `save` outside of `jax.jit`")
    if isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError(f"{where} is a `ShapeDtypeStruct`, which has no values")
    if isinstance(x, jax.Array):
        if x.is_deleted():
            raise ValueError(
                f"{where} was donated or deleted: save what the last step returned"
            )
        x = jax.random.key_data(x) if is_key(x) else x
        if is_of_several_processes(x) and not x.is_fully_replicated:
            x = multihost_utils.process_allgather(x, tiled=True)
        x = jax.device_get(x)
    array = np.asarray(x)
    if _is_extension(array.dtype):
        return array.view(f"u{array.itemsize}")
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{where} has the dtype {array.dtype}, which is not stored")
    return array


def is_of_several_processes(x: Any) -> bool:
    place = place_of(x)
    return place is not None and not place.is_fully_addressable


def restored(array: np.ndarray, kind: Kind, like: Any) -> Any:
    """The entry that was stored as `array`, of the type of `like` and where that
    lies."""
    if not hasattr(like, "dtype"):
        return type(like)(array.item())
    if is_key(like):
        impl = kind.dtype.removeprefix(_KEY)
        bits = jax.device_put(array)
        return _placed(jax.random.wrap_key_data(bits, impl=impl), like)
    if _is_extension(like.dtype):
        array = array.view(like.dtype)
    if isinstance(like, np.generic):
        return array[()]
    return array if isinstance(like, np.ndarray) else _placed(array, like)


def _placed(x: Any, like: Any) -> jax.Array:
    sharding = like.sharding
    if isinstance(like, jax.Array) and not like.committed:
        sharding = None  # it is tied to no device, and goes where it is used
    elif isinstance(getattr(sharding, "mesh", None), AbstractMesh):
        sharding = sharding.spec  # a shape without devices: those of `jax.set_mesh`
    if getattr(like, "weak_type", False):  # which keys do not have
        zeros = jnp.broadcast_to(jnp.asarray(np.zeros((), like.dtype).item()), x.shape)
        x = zeros.at[...].set(x)
    if isinstance(sharding, Sharding) and not sharding.is_fully_addressable:
        return _shared_out(x, sharding)
    return jax.device_put(x, sharding)


def _shared_out(x: Any, sharding: Sharding) -> jax.Array:
    """`x`, which every process has read whole, on the devices of all."""
    if is_key(x):
        data = _shared_out(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])
