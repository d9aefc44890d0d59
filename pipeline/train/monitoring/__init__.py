"""Monitors a training: progress, sample grids, memorisation and the causes of failures."""
