"""DICOMweb servers as a source of DICOM files."""
