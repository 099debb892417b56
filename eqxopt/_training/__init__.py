"""Loops around an optimizer."""
