"""What a stage would cost on this machine, and how much fits into a time."""
