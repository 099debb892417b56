"""Wrappers: optimizers around optimizers, and their compositions."""
