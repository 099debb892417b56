"""What changes gradients and has no `apply`."""
