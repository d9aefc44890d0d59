"""DICOM files: header, pixels and display, by allow-list."""
