"""The search for values in every byte of a folder."""
