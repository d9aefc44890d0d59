"""Proof that the gate works, on real cohorts: planted copies, null sets, models known to remember."""
