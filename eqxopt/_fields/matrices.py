"""Which parameters are matrices, and how each is seen as one."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .._tree import Parameters
from .._types import AnyLeaf, Matrix
from .selectors import AbstractSelector, Modules


@jtu.register_static
@dataclasses.dataclass(frozen=True)
class MatrixView:
    """How an array is seen as a batch of matrices of `rows` outputs and `columns`
    inputs."""

    shape: tuple[int, ...]
    batch: int
    rows: int
    columns: int
    transposed: bool = False
    """Whether the array has inputs first, and outputs in its last axis."""

    def matrices(self, array: AnyLeaf) -> Matrix:
        if self.transposed:
            outputs = self.shape[-1]
            array = array.reshape(-1, self.columns, outputs).swapaxes(1, 2)
        return array.reshape(self.batch, self.rows, self.columns)

    def array(self, matrices: Matrix) -> AnyLeaf:
        if self.transposed:
            outputs = self.shape[-1]
            matrices = matrices.reshape(-1, outputs, self.columns).swapaxes(1, 2)
        return matrices.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a weight is split into matrices, each of the shape (out, in, ...), of which
    the axes after the first are flattened.

    **Arguments:**

    - `stacked`: how many leading axes count layers. Default 0.
    - `heads`: how many matrices of equal height stand below each other in each layer,
        such as the heads of an attention. Default 1.
    - `transposed`: whether the weight has the shape (in, ..., out), as kernels of flax,
        of which the axes before the last are flattened. Default `False`.
    """

    stacked: int = 0
    heads: int = 1
    transposed: bool = False

    def __post_init__(self):
        for name, least in (("stacked", 0), ("heads", 1)):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise TypeError(f"`Blocks({name}={number!r})`: it must be an integer")
            if number < least:
                raise ValueError(f"`Blocks({name}={number})`: at least {least}")

    def __str__(self) -> str:
        words = ["stack"] * bool(self.stacked) + ["kernel"] * self.transposed
        words += [f"{self.heads} heads"] * (self.heads > 1)
        return ", ".join(words) or "matrix"


KINDS: dict[Any, "Blocks | None"] = {
    True: Blocks(),
    "matrix": Blocks(),
    "stack": Blocks(stacked=1),
    "kernel": Blocks(transposed=True),
    False: None,
    "fallback": None,
}

Kind: TypeAlias = bool | int | str | Blocks
MatricesLike: TypeAlias = (
    Callable[[str, Array], Kind]
    | Callable[[str, Array, Modules], Kind]
    | Kind
    | Mapping
    | tuple
    | list
    | eqx.Module
)
"""What says which parameters are matrices: a function of `(path, array)` or `(path,
array, modules)`, or a tree that is a prefix of the model."""


class Matrices(AbstractSelector):
    """Which parameters are matrices: `True` or `"matrix"` for (out, in, ...), of which
    the axes after the first are flattened; `"stack"` for a batch of these along a
    leading axis; `"kernel"` for (in, ..., out), as in flax; a number, from 2, of heads
    below each other; a `Blocks` for several of these; `False` or `"fallback"` for what
    is none."""

    def read(self, value: Any, what: str, array: Array | None) -> Blocks | None:
        if isinstance(value, np.bool_ | np.integer):
            value = value.item()
        known = isinstance(value, bool | str) and value in KINDS
        blocks = KINDS[value] if known else value
        if isinstance(blocks, int) and blocks > 0:
            blocks = Blocks(heads=blocks)
        if not isinstance(blocks, Blocks | None) or (value is None):
            raise TypeError(
                f"{what} must be True or 'matrix', 'stack', 'kernel', a number of "
                f"heads, a `Blocks`, or False or 'fallback', not {value!r}"
            )
        if array is not None and blocks is not None:
            _check(blocks, what, array)
        return blocks

    def views(self, parameters: Parameters, what: str) -> list[MatrixView | None]:
        """How each parameter is seen as a matrix, `None` where it is not."""
        return [
            None if blocks is None else view_of(array.shape, blocks)
            for blocks, array in zip(self.at(parameters, what), parameters.arrays)
        ]


def _check(blocks: Blocks, what: str, array: Array) -> None:
    if array.ndim < blocks.stacked + 2:
        raise ValueError(
            f"{what} has shape {array.shape}, which cannot be a {blocks}. Choose False "
            "for it."
        )
    rows = array.shape[-1 if blocks.transposed else blocks.stacked]
    if rows % blocks.heads:
        raise ValueError(
            f"{what} has shape {array.shape}: its {rows} rows cannot be divided into "
            f"{blocks.heads} heads"
        )


def view_of(shape: tuple[int, ...], blocks: Blocks | None) -> MatrixView:
    """How an array is seen as a batch of matrices. A vector is a matrix of one
    column."""
    blocks = blocks or Blocks()
    inner = shape[blocks.stacked :] or (1,)
    rows, *columns = inner[::-1] if blocks.transposed else inner
    batch = math.prod(shape[: blocks.stacked]) * blocks.heads
    heights = rows // blocks.heads
    return MatrixView(shape, batch, heights, math.prod(columns), blocks.transposed)


def as_matrices(choice: Any) -> Matrices:
    return choice if isinstance(choice, Matrices) else Matrices(choice)


OF_TWO_AXES = eqx.nn.Linear, eqx.nn.Embedding, eqx.nn.GRUCell, eqx.nn.LSTMCell
NORMS = eqx.nn.BatchNorm, eqx.nn.GroupNorm, eqx.nn.LayerNorm, eqx.nn.RMSNorm


def default_matrices(path: str, array: AnyLeaf, modules: Modules) -> Blocks | bool:
    """Which parameters are matrices, unless `matrices` says so: arrays of two axes and
    more, with more than one row and column, of which the path has no "embed" and the
    name is none of a bias.

    Layers of Equinox are known by their type: embeddings and norms have no matrices,
    and axes beyond those of a layer are those of a stack.
    """
    # A convolution's bias in Equinox has shape (out, 1, 1), which is one column and so
    # a vector. Stacked biases are known by their name.
    if array.ndim < 2 or "embed" in path.lower() or is_bias(path):
        return False
    if isinstance(layer_of(modules), (eqx.nn.Embedding, *NORMS)):
        return False
    blocks = Blocks(stacked_axes(array, modules))
    view = view_of(array.shape, blocks)
    return blocks if min(view.rows, view.columns) > 1 else False


def is_bias(path: str) -> bool:
    """Whether the last name on the path is one of a bias, such as `bias`, `bias_n` or
    `in_bias`."""
    name = (re.findall(r"\w+", path) or [""])[-1]
    return name.startswith("bias") or name.endswith("bias")


def layer_of(modules: Modules) -> eqx.Module | None:
    return modules[-1] if modules else None


def stacked_axes(array: AnyLeaf, modules: Modules) -> int:
    """How many leading axes of a weight count layers, as far as its type tells."""
    match layer_of(modules):
        case eqx.nn.Conv(num_spatial_dims=n) | eqx.nn.ConvTranspose(num_spatial_dims=n):
            return max(array.ndim - 2 - n, 0)
        case layer if isinstance(layer, OF_TWO_AXES):
            return max(array.ndim - 2, 0)
    return 0


def by_head(path: str, array: AnyLeaf, modules: Modules) -> Blocks | bool:
    """A choice of `matrices`: as by default, but each head of an
    `equinox.nn.MultiheadAttention` is a matrix of its own.

    The rows of the projections to queries, keys and values belong to heads. In one
    matrix, heads with large gradients take the step of the others; apart, every head
    makes its own. The projection to the output stays whole. For an attention of your
    own, give the number of heads: `lambda path, array: 8 if "query" in path else True`.

    **Source:** GLM-5 Team, [GLM-5](https://arxiv.org/abs/2602.15763), and Kimi Team,
    [Kimi K3](https://arxiv.org/abs/2607.24653), both 2026, for Muon; Zhang et al.,
    [When and Why Grouping Attention Heads Accelerates Muon
    Optimization](https://arxiv.org/abs/2605.08933), 2026, who find that some heads
    together can be better than each alone.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, eqxopt
        >>> model = eqx.nn.MultiheadAttention(4, 16, key=jax.random.key(0))
        >>> opt = eqxopt.Muon(0.02, matrices=eqxopt.by_head).init(model)
        >>> print(eqxopt.describe(opt, model))
        path                 shape     dtype    group    rate  state
        .query_proj.weight   (16, 16)  float32  4 heads  0.02  1 KiB
        .key_proj.weight     (16, 16)  float32  4 heads  0.02  1 KiB
        .value_proj.weight   (16, 16)  float32  4 heads  0.02  1 KiB
        .output_proj.weight  (16, 16)  float32  matrix   0.02  1 KiB
        total                1024                              4 KiB

        ```
    """
    blocks = default_matrices(path, array, modules)
    if isinstance(blocks, Blocks):
        match modules[-2:]:
            case (eqx.nn.MultiheadAttention() as attention, layer) if any(
                layer is x
                for x in (
                    attention.query_proj,
                    attention.key_proj,
                    attention.value_proj,
                )
            ):
                return dataclasses.replace(blocks, heads=attention.num_heads)
    return blocks


if TYPE_CHECKING:

    class MatricesField:
        """A field that is set to a choice of matrices. Inside a rule it is read as the
        kind of this parameter."""

        def __get__(self, instance: object, owner: Any = None) -> Any: ...
        def __set__(self, instance: object, value: MatricesLike) -> None: ...

else:
    MatricesField: TypeAlias = Matrices


def matrices_of(**options: Any) -> Any:
    """Declare a static field that says which parameters are matrices."""
    metadata = {"like": "MatricesLike"}
    options |= {"static": True, "metadata": metadata}
    return eqx.field(converter=as_matrices, **options)
