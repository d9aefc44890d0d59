"""DICOM files: an allow-listed header, stored pixels, and their display."""
