"""What a field of a transform can hold."""
