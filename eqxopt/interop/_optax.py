"""Packages that are not always there."""

from typing import Any


def optax_module() -> Any:
    """Optax, for what works with it and only with it."""
    try:
        import optax
    except ImportError:
        raise ImportError(
            "`eqxopt.interop` needs optax: `pip install eqxopt[optax]`"
        ) from None
    return optax
