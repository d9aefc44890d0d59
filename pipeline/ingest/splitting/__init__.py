"""Which patient goes to which split."""
