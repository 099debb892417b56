"""Gradient transforms: they have `update` but no `apply`."""
