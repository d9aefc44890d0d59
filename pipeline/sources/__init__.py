"""Sources of scans: DICOM, NIfTI and image folders, DICOMweb servers, MedMNIST archives, and the phantom."""
