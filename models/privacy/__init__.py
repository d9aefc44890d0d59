"""Tensor operations of the privacy gate: matching, partial copies, embeddings and membership scores."""
