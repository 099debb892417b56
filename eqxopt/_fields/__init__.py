"""What a field of a transform can hold, and what declares one."""

from .bounds import (
    bound as bound,
    bounds_by_path as bounds_by_path,
    bounds_of as bounds_of,
    check_order as check_order,
    fix_bound as fix_bound,
    OptionalBound as OptionalBound,
)
from .hyperparameter import (
    as_hyperparameter as as_hyperparameter,
    at_step as at_step,
    fix_choice as fix_choice,
    Hyperparameter as Hyperparameter,
    hyperparameter as hyperparameter,
    HyperparameterIn as HyperparameterIn,
    HyperparameterLike as HyperparameterLike,
    OptionalHyperparameter as OptionalHyperparameter,
    PerParameter as PerParameter,
)
from .keys import (
    Key as Key,
    key_field as key_field,
    key_names as key_names,
    KeyData as KeyData,
    own_keys as own_keys,
)
from .matrices import (
    Blocks as Blocks,
    by_head as by_head,
    default_matrices as default_matrices,
    is_bias as is_bias,
    layer_of as layer_of,
    Matrices as Matrices,
    matrices_of as matrices_of,
    MatricesField as MatricesField,
    MatricesLike as MatricesLike,
    MatrixView as MatrixView,
    NORMS as NORMS,
    stacked_axes as stacked_axes,
    view_of as view_of,
)
from .options import DType as DType, dtype_option as dtype_option, word as word
from .selectors import (
    AbstractSelector as AbstractSelector,
    as_labels as as_labels,
    as_mask as as_mask,
    Labels as Labels,
    Mask as Mask,
    mask_of as mask_of,
    MaskLike as MaskLike,
    Modules as Modules,
    OptionalMask as OptionalMask,
)
