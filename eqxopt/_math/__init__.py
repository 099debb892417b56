"""Mathematics for update rules."""

from .box import (
    nudged_up as nudged_up,
    step_to_high as step_to_high,
    step_to_low as step_to_low,
)
from .factored import (
    is_factored as is_factored,
    longest_axes as longest_axes,
    mix_factors as mix_factors,
    over_root as over_root,
    zero_factors as zero_factors,
)
from .linalg import (
    adjoint_solve as adjoint_solve,
    cholesky_solution as cholesky_solution,
    eigh as eigh,
    inverse_power as inverse_power,
    orthonormal_columns as orthonormal_columns,
    svd as svd,
)
from .moments import (
    debiased_mean as debiased_mean,
    MeanAndVariance as MeanAndVariance,
    Moments as Moments,
    Momentum as Momentum,
    reduced_zeros as reduced_zeros,
    zero_moments as zero_moments,
)
from .noise import fading_noise as fading_noise
from .small import (
    abs_sq as abs_sq,
    added as added,
    adjoint as adjoint,
    agreement as agreement,
    cbrt as cbrt,
    clip_factor as clip_factor,
    clipped as clipped,
    debias as debias,
    divide as divide,
    ema as ema,
    global_norm as global_norm,
    half_cosine as half_cosine,
    inner_product as inner_product,
    lerp as lerp,
    moved as moved,
    no_update as no_update,
    norm as norm,
    one_minus_power as one_minus_power,
    own_copy as own_copy,
    plus_one as plus_one,
    plus_one_if as plus_one_if,
    power as power,
    product as product,
    ramp as ramp,
    rms as rms,
    select as select,
    sqrt as sqrt,
    squarable as squarable,
    squared_norm as squared_norm,
    stable_norm as stable_norm,
    sum_of_squares as sum_of_squares,
    trust_ratio as trust_ratio,
    unless_overflown as unless_overflown,
    zero_count as zero_count,
)
from .units import (
    as_unit_axis as as_unit_axis,
    axes_within_unit as axes_within_unit,
    is_one_unit as is_one_unit,
    UnitAxis as UnitAxis,
)
from .vectors import (
    as_arrays as as_arrays,
    as_vector as as_vector,
    multiplied as multiplied,
    size_as_vector as size_as_vector,
)
