"""How far to go in a given direction."""
