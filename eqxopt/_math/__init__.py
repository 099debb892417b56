"""What rules are written in."""
