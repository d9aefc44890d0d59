"""Classifiers of the user's own: each training is a process of its own, which can crash or hang by itself."""
