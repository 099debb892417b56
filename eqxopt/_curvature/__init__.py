"""Optimizers that know how the loss curves, one file a family."""
