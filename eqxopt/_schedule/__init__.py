"""One file a kind of schedule."""
