"""Optax, which may not be installed."""

from typing import Any


def optax_module() -> Any:
    """The module `optax`, or an `ImportError` that says how to install it."""
    try:
        import optax
    except ImportError:
        raise ImportError(
            "`eqxopt.interop` needs optax: `pip install eqxopt[optax]`"
        ) from None
    return optax
