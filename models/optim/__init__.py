"""Optimisation of the weights: optimisers, averages, precision, compiling, memory and several processes."""
