"""Adam-mini."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import (
    AbstractSelector,
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    is_bias,
    mask_of,
    OptionalMask,
)
from .._math import abs_sq, debias, divide, ema, reduced_zeros, sqrt, unless_overflown
from .._types import AnyLeaf, FirstMoment, Leaf, Scalar


class Division(AbstractSelector):
    """How each parameter is divided into blocks: `"tensor"`, `"row"`, `"entry"`, or how
    many."""

    def read(self, value: Any, what: str, array: Array | None) -> str | int:
        if isinstance(value, str) and value in ("tensor", "row", "entry"):
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TypeError(
                f"{what} must be 'tensor', 'row', 'entry', or a number of blocks, not "
                f"{value!r}"
            )
        if array is not None and array.size % value:
            raise ValueError(
                f"{what} of shape {array.shape}, must divide its size, but is {value}. "
                "Choose another number for it, or 'row'."
            )
        return value


def _as_division(choice: Any) -> Division:
    return choice if isinstance(choice, Division) else Division(choice)


def _default_blocks(path: str, array: AnyLeaf) -> str:
    """The rows of weights and the entries of biases, each of which feeds one neuron,
    and all of a norm's scale."""
    return "row" if array.ndim > 1 or is_bias(path) else "tensor"


class BlockMoments(NamedTuple):
    """Running means of a parameter's gradient, and of its square over each block."""

    mu: FirstMoment
    nu: Float[Array, "*blocks"]


class AdamMini(AbstractLeafwiseOptimizer):
    r"""AdamW in half the memory, with one second moment for each block of a parameter.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t^B &= \beta_2 v_{t-1}^B + (1 - \beta_2) \operatorname{mean}_{i \in B}
        |g_{t,i}|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_{t,i} &= -\alpha_t \left( \hat m_{t,i} / \Big(\sqrt{\hat v_t^B} +
        \varepsilon\Big) + \lambda \theta_{t-1,i} \right), \qquad i \in B
    \end{aligned}
    $$

    A block should be what has one dense part of the Hessian: the weights into one
    neuron, and for queries and keys those of one head. No name or shape tells the
    heads, so say where they are:

    ```python
    def blocks(path, array):
        heads = 8
        if "query_proj" in path or "key_proj" in path:
            return heads
        return "row" if array.ndim > 1 or path.endswith("bias") else "tensor"
    ```

    The learning rate is that of AdamW. The authors' code knows transformers by the
    names of their layers, and does not decay biases and norms: use `mask` for that.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `blocks`: the blocks of each parameter, a [selector][selectors] that gives one of
        four things: `"row"`, a block for each entry of the first axis, which in Equinox
        is that of the outputs; `"tensor"`, one block; `"entry"`, as in AdamW; or a
        number, into which the entries, in their order, are divided. By default `"row"`
        for all with more than one axis and for biases, and `"tensor"` for the rest,
        such as the scale of a norm. Layers made by `equinox.filter_vmap` need the
        number of all their rows. Keyword only.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]). Keyword only.

    **Raises:** a `ValueError` for a number of blocks that does not divide the size.

    **Source:** Zhang et al., [Adam-mini: Use Fewer Learning Rates To Gain
    More](https://arxiv.org/abs/2406.16793), 2024, with the blocks and defaults of its
    code, version 1.1.1. Earlier ones had `"entry"` for embeddings and the last layer.

    !!! example

        ```pycon
        >>> import equinox as eqx, jax, eqxopt
        >>> model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
        >>> opt = eqxopt.AdamMini(learning_rate=0.003).init(model)
        >>> opt.state.weight.mu.shape, opt.state.weight.nu.shape
        ((2, 3), (2,))

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    blocks: Division = eqx.field(
        converter=_as_division, default=_default_blocks, static=True, kw_only=True
    )
    mu_dtype: DType = dtype_option(default=None, kw_only=True)

    def init_leaf(self, param: Leaf) -> BlockMoments:
        shape, axes = _by_block(param, self.blocks)
        mu = zeros_like(param, self.mu_dtype)
        return BlockMoments(mu, reduced_zeros(param.reshape(shape), axes))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: BlockMoments
    ) -> tuple[Leaf, BlockMoments]:
        shape, axes = _by_block(param, self.blocks)
        total = jnp.sum(abs_sq(grad).reshape(shape), axis=axes, keepdims=True)
        blocks, total = unless_overflown(grad.reshape(shape), total)
        grad, total = blocks.reshape(param.shape), jnp.squeeze(total, axes)
        # The mean, and 0 rather than NaN where a block has no entries.
        square = total * (total.size / max(param.size, 1))
        mu, nu = ema(state.mu, grad, self.b1), ema(state.nu, square, self.b2)
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b2, t)
        divisor = jnp.expand_dims(sqrt(nu_hat) + self.eps, axes)
        direction = divide(mu_hat.reshape(shape), divisor).reshape(param.shape)
        update = -self.learning_rate * (direction + self.weight_decay * param)
        return update, BlockMoments(mu, nu)


def _by_block(param: Leaf, blocks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape for a parameter, and the axes of it that lie within a block. `blocks`
    are what `Division.read` gives."""
    if isinstance(blocks, int):
        return (blocks, param.size // blocks), (1,)
    first = {"tensor": 0, "row": 1, "entry": param.ndim}[blocks]
    return param.shape, tuple(range(first, param.ndim))
