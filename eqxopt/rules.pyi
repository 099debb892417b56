from ._abstract.nested import inner as inner
from ._abstract.rules import begun as begun, scalar_of as scalar_of
from ._abstract.step import Step as Step
from ._abstract.transform import count_of as count_of
from ._dtype import (
    compute_dtype as compute_dtype,
    real_dtype as real_dtype,
    real_zeros_like as real_zeros_like,
    zeros_like as zeros_like,
)
from ._fields.hyperparameter import (
    Hyperparameter as Hyperparameter,
    hyperparameter as hyperparameter,
    HyperparameterLike as HyperparameterLike,
    OptionalHyperparameter as OptionalHyperparameter,
)
from ._fields.keys import Key as Key, key_field as key_field
from ._fields.matrices import (
    Blocks as Blocks,
    default_matrices as default_matrices,
    matrices_of as matrices_of,
    MatricesField as MatricesField,
    MatricesLike as MatricesLike,
    MatrixView as MatrixView,
)
from ._fields.options import DType as DType, dtype_option as dtype_option, word as word
from ._fields.selectors import (
    mask_of as mask_of,
    MaskLike as MaskLike,
    Modules as Modules,
    OptionalMask as OptionalMask,
)
from ._math.moments import (
    debiased_mean as debiased_mean,
    Moments as Moments,
    Momentum as Momentum,
    zero_moments as zero_moments,
)
from ._math.small import (
    abs_sq as abs_sq,
    added as added,
    agreement as agreement,
    cbrt as cbrt,
    clip_factor as clip_factor,
    debias as debias,
    divide as divide,
    ema as ema,
    inner_product as inner_product,
    no_update as no_update,
    norm as norm,
    own_copy as own_copy,
    power as power,
    rms as rms,
    sqrt as sqrt,
    squarable as squarable,
    squared_norm as squared_norm,
    stable_norm as stable_norm,
    trust_ratio as trust_ratio,
)
from ._number import integer as integer
from ._tree import Parameters as Parameters, replace_fields as replace_fields
from ._types import (
    Leaf as Leaf,
    Leaves as Leaves,
    Matrix as Matrix,
    RealLeaf as RealLeaf,
    Scalar as Scalar,
)
