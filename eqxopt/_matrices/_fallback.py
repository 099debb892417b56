"""What trains the parameters that are no matrices, unless another is given."""

from .._optim.adam import AdamW


def default_fallback() -> AdamW:
    return AdamW(3e-4, b2=0.95, weight_decay=0.0)
