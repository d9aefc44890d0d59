"""Differentially private training: budget, Poisson sampling and step."""
