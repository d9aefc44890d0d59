"""The identifying values of a source that are searched for."""
