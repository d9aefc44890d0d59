"""Reads scans in worker processes and computes pixels, signature and flags of each."""
