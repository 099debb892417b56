"""An optimizer whose moments take a half or a quarter of their memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .._abstract.groups import LARGEST
from .._abstract.matrixwise import AbstractRefreshedMatrixOptimizer
from .._abstract.nested import inner, inner_transforms
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun
from .._abstract.states import States
from .._abstract.step import Step
from .._abstract.transform import AbstractTransform, count_of
from .._compile.given import results_given
from .._compile.opaque import opaque_zeros
from .._fields import AbstractSelector, Key, key_field, own_keys
from .._math import plus_one
from .._number import integer
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaves, Self
from ._coded import coded, codes_in, decoded, paths_of, with_kept, with_words
from ._codes import BlockCode, first_codes, moments_of, with_moments


WORDS = "float32", "bfloat16", "packed", "8-bit"

StorageLike: TypeAlias = (
    Callable[[str, Array], str] | str | Mapping | tuple | list | eqx.Module
)


class Storage(AbstractSelector):
    """Chooses for each parameter how its moments are stored."""

    def read(self, value: Any, what: str, array: Array | None) -> str:
        if value not in WORDS:
            listed = ", ".join(map(repr, WORDS))
            raise ValueError(f"{what} must be one of {listed}, not {value!r}")
        return value


def _as_storage(choice: Any) -> Storage:
    return choice if isinstance(choice, Storage) else Storage(choice)


class CompactState(AbstractOptimizer):
    r"""Stores the moments of an optimizer in fewer bits than float32 has.

    | `storage` | bytes for AdamW | form |
    | --- | --- | --- |
    | `"float32"` | 8 | as without `CompactState` |
    | `"bfloat16"` | 4 | 16 bits a moment, rounded at random |
    | `"packed"` | 4 | both moments in one word, rounded to nearest |
    | `"8-bit"` | 2.25 | blocks of 32 with one scale |

    Between two updates only the compact form exists. An update decodes it, computes as
    ever in float32, and encodes the result, entry by entry in one pass.

    - `"bfloat16"`: a first moment has 7 bits of mantissa. A second moment, which has no
      sign, has 8. Rounding at random keeps the mean of what is stored. To nearest, a
      moment with a decay of 0.999 would never fall: each step changes it by less than
      half of its last bit.
    - `"packed"`: the first two moments of a parameter share a word of 32 bits, by
      default with 5 bits of mantissa for the mean of gradients and 10 for the mean of
      squares. A mean with the decay $\beta$ needs about $\log_2 1 / (1 - \beta)$ bits
      to move at all: 3 for 0.9 and 10 for 0.999. A moment without a partner is stored
      as with `"bfloat16"`.
    - `"8-bit"`: with the largest magnitude $s$ in its block, the root of each one,

    $$
    c_m = \operatorname{sign}(m) \operatorname{round}\big(127 \sqrt{|m| / s}\big),
    \qquad
    c_v = \operatorname{round}\big(255 \sqrt{v / s}\big).
    $$

    A mean of squares that is not 0 has a code of at least 1, so that no update divides
    by 0. Codes have the shape of their parameter, and so lie where it lies in a mesh.
    Blocks are along the last axis. An infinity, a NaN or a number
    above $2^{126}$ spoils its block.

    The update is made with the words that are stored, and for `"8-bit"` with moments
    that are not yet rounded.

    Moments are running means of gradients, of their squares or of their differences,
    and stored gradients. What else an optimizer keeps stays as it is: sums, averages of
    weights, iterates, factors of matrices. So does the state of parameters of fewer
    than `min_size` entries, which are often the most sensitive. A moment that an update
    leaves alone keeps its bits. `opt.decoded` is the optimizer inside with its moments
    in float32.

    Training cannot be differentiated, since what is stored is rounded.

    **Arguments:**

    - `optimizer`: any optimizer that keeps moments, wrapped or not.
    - `storage`: one of the words above, for all parameters or chosen for each by a
        prefix tree or a function of `(path, array)`. Default `"8-bit"`.
    - `mantissas`: the bits of mantissa of the two moments in a word of `"packed"`, of
        which there are 15. Default `(5, 10)`. Keyword only.
    - `min_size`: the least entries of a moment that is stored in another form. Default
        4,097. If it is lower, small parameters do not share arrays. Keyword only.
    - `key`: an integer or a random key, for what is rounded at random. Default 0.
        Keyword only.

    **Raises:** `init` raises a `ValueError` if the optimizer keeps no moments, or if
    another form is chosen for moments in float64 or complex numbers. Differentiating
    `apply` raises a `TypeError`.

    **Source:** Dettmers et al., [8-bit Optimizers via Block-wise
    Quantization](https://arxiv.org/abs/2110.02861), 2021;
    [FlashOptim](https://arxiv.org/abs/2602.23349), 2026, which has blocks of 32 and a
    root for second moments, too. Scales are in float32 here: so a moment that is read
    and stored again keeps its bits.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.ones((128, 128))
        >>> opt = eqxopt.CompactState(eqxopt.AdamW(1e-3), "8-bit").init(params)
        >>> params, opt = opt.apply(0.1 * params, params)
        >>> print(eqxopt.describe(opt, params).splitlines()[1])
        the root  (128, 128)  float32         0.001  0.0001  36 KiB
        >>> print(f"{opt.decoded.state.mu[0, 0]:.4f}")
        0.0100

        ```
    """

    passes_gradients: ClassVar[bool] = True

    optimizer: AbstractOptimizer = inner()
    storage: Storage = eqx.field(
        default="8-bit",
        converter=_as_storage,
        static=True,
        metadata={"like": "StorageLike"},
    )
    mantissas: tuple[int, int] = eqx.field(default=(5, 10), static=True, kw_only=True)
    min_size: int = integer("[0, inf)", default=4097, kw_only=True)
    key: Key = key_field(default=0, kw_only=True)

    def __check_init__(self) -> None:
        bits = self.mantissas
        pair = isinstance(bits, tuple) and len(bits) == 2
        if (
            not pair
            or any(type(x) is not int or x < 1 for x in bits)
            or sum(bits) != 15
        ):
            raise ValueError(
                "`CompactState.mantissas` are two integers of at least 1 whose sum is "
                f"15, not {bits!r}"
            )

    @property
    def decoded(self) -> AbstractOptimizer:
        """The optimizer inside, with its moments in float32."""
        count_of(self)
        return decoded(self.optimizer, jnp.zeros((), jnp.uint32))

    def start(self, parameters: Parameters) -> Self:
        new = begun(self, parameters)
        # What lies in stacks is left alone.
        alone = self.min_size > LARGEST
        inside = parameters if alone else parameters.in_arrays_of_their_own()
        optimizer = _first_stored(self, self.optimizer.start(inside), parameters)
        return replace_fields(new, optimizer=optimizer)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        old = self.optimizer
        # Once for the updates, once for the codes and once for their scales.
        before = [decoded(old, zero) for zero in opaque_zeros(3, count)]
        blocks = any(isinstance(x, BlockCode) for x in codes_in(old))
        if not blocks or _multiplies(old):
            before = before[:1] * 3
        arrays = [jtu.tree_leaves(x) for x in before]
        structure = jtu.tree_structure(before[0])
        run = lambda arrays: structure.unflatten(arrays).advance(step)
        program, results = jax.make_jaxpr(run, return_shape=True)(arrays[0])

        def after(arrays: Sequence[Any], given: Mapping[int, Any]) -> Any:
            made = results_given(program, given, arrays)
            return jtu.tree_structure(results).unflatten(made)

        _, exact = after(arrays[1], {})
        _, again = after(arrays[2], {})
        keys = own_keys(self, count, len(codes_in(old)))
        new = coded(old, before[1], exact, again, iter(keys))
        # Step with the words that are stored. So nothing reads an old word but the
        # kernel that replaces it, and the new one can be written to its memory.
        stepped = with_words(new, exact)
        pairs = zip(jtu.tree_leaves(stepped), jtu.tree_leaves(exact))
        first = len(jtu.tree_leaves(results[0]))
        given = {first + i: x for i, (x, y) in enumerate(pairs) if x is not y}
        updates, _ = after(arrays[0], given)
        return updates, replace_fields(self, optimizer=new, count=count)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return self.decoded.evaluate(parameters)


def _multiplies(transform: AbstractTransform) -> bool:
    """Whether an update has products of matrices, which nobody wants to do twice."""
    inside = inner_transforms(transform).values()
    matrices = isinstance(transform, AbstractRefreshedMatrixOptimizer)
    return matrices or any(map(_multiplies, inside))


def _first_stored(
    compact: CompactState, optimizer: AbstractOptimizer, parameters: Parameters
) -> AbstractOptimizer:
    """`optimizer`, fresh from its `start`, with the codes of its moments."""
    words = compact.storage.at(parameters, "`CompactState.storage`")
    index_of = parameters.index_of
    found = False

    def stored(kept: Any) -> Any:
        nonlocal found
        if not isinstance(kept, States):
            return kept
        alone = []
        for path, record in zip(paths_of(kept), kept.alone):
            moments = list(moments_of(record))
            i = index_of[path]
            if words[i] != "float32":
                large = [x for x in moments if compact.min_size <= x[1].size > 0]
                _check_dtypes(large, parameters, i, words[i])
                record = with_moments(
                    record, first_codes(large, words[i], compact.mantissas)
                )
            found |= bool(moments)
            alone.append(record)
        found |= any(True for record in kept.stacks for _ in moments_of(record))
        return States(tuple(alone), kept.stacks, kept.layout)

    new = with_kept(stored, optimizer)
    if len(parameters) and not found:
        raise ValueError(
            f"`CompactState`: `{type(optimizer).__name__}` keeps no moments that could "
            "be stored in fewer bits. Take it without `CompactState`"
        )
    return new


def _check_dtypes(
    moments: Sequence[tuple[Any, AnyLeaf, bool]],
    parameters: Parameters,
    i: int,
    word: str,
) -> None:
    for _, x, _ in moments:
        if x.dtype.itemsize > 4:
            raise ValueError(
                f"`CompactState.storage` is {word!r} for {parameters.path(i)}, whose "
                f"moments have dtype {x.dtype}, but only float32 has such a form. "
                "Choose 'float32', which leaves them as they are, for this parameter: "
                "`storage=lambda path, x: 'float32' if x.dtype.itemsize > 4 else "
                f"{word!r}`"
            )
