"""Tensors of the privacy gate: matching, copies of parts, embeddings and membership scores."""
