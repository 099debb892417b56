"""Training steps and training loops."""
