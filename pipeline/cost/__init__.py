"""Cost of a stage on this machine, and the number of steps that fit into a time."""
