"""What is written as it is for the compiler or the tracer."""
