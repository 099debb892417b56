"""Optimizers that see a parameter as a matrix, one file each."""
