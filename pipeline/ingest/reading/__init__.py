"""Reading scans in worker processes: pixels, signatures and flags of each."""
