"""The kinds of source that a manifest may name: the rule of each, and the table that holds them all."""
