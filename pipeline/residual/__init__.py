"""Residual scanner: look for identifying values in every byte, name and packed corner of a folder."""

from pipeline.residual.scanning import Finding, FindingKind, problems, scan_for_values

__all__ = ["Finding", "FindingKind", "problems", "scan_for_values"]
