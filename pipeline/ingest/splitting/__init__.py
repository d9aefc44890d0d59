"""Assigns patients to splits."""
