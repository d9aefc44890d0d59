"""Sentences that interpret measured figures; each is true at the power of its test."""
