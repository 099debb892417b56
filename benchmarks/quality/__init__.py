"""How well models train: each optimizer beside AdamW, and narrow state beside wide."""
