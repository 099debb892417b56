"""Training in bfloat16 and float16: what keeps updates that rounding would lose."""
