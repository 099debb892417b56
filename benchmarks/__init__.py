"""Measured against optax, as ratios: `python -m benchmarks`."""
