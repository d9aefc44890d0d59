"""Sources of scans: DICOM, NIfTI and image folders, MedMNIST archives, the phantom; read by allow-list."""
