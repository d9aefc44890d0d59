"""Residual scanner: searches every byte, file name and archive of a folder for identifying values.

`scan_for_values` searches for given values; `collect_values` (in `values.collecting`) takes them from a
source, and `verify_against` (in `verify_source`) holds an output against it:

    with collect_values(load_manifest(Path("my_scans.yaml"))) as values:
        report = verify_against(Path("runs/mine/release"), values)
"""

from pipeline.residual.search.scanning import Finding, FindingKind, problems, scan_for_values

__all__ = ["Finding", "FindingKind", "problems", "scan_for_values"]
