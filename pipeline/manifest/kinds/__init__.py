"""Kinds of sources in a manifest: the rules of each kind, and the table of all kinds."""
