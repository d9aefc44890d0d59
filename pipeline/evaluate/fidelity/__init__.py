"""Fidelity: how far synthetic images are from real ones in the features of an encoder."""
