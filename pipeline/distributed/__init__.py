"""Several processes of one job, and the CPU threads of each."""
