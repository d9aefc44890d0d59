"""What a training records and watches: progress, grids, memorisation, and why it failed."""
