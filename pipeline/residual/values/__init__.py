"""The values of a source that are searched for."""
