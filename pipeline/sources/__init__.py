"""Sources of scans: DICOM, NIfTI and image folders, MedMNIST archives, the phantom; each read by allow-list."""
