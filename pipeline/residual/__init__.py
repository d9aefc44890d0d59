"""Residual scanner: look for identifying values in every byte, name and packed corner of a folder.

`scan_for_values` searches for given values; `collect_values` (in `collecting`) takes them from a source, and
`verify_against` (in `against`) holds an output against it:

    with collect_values(load_manifest(Path("my_scans.yaml"))) as values:
        report = verify_against(Path("runs/mine/release"), values)
"""

from pipeline.residual.search.scanning import Finding, FindingKind, problems, scan_for_values

__all__ = ["Finding", "FindingKind", "problems", "scan_for_values"]
