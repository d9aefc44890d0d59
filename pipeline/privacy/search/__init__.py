"""The views in which candidates are compared with real scans, and the nearest-neighbour search."""
