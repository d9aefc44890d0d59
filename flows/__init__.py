"""Prefect and the command line: thin tasks around the functions of `pipeline`."""
