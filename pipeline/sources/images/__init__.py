"""PNG, JPEG, TIFF and JPEG 2000 files."""
