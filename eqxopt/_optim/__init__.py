"""One file an algorithm or family."""
