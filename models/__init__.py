"""Tensors only: the denoiser, its objective, samplers, EMA and checkpoint format; knows no files of scans."""

import getpass
import os

try:
    getpass.getuser()
except (KeyError, ImportError, OSError):
    # A uid without an entry in passwd, as in a container. MONAI and torch.compile ask for its name and fail.
    os.environ["LOGNAME"] = f"uid-{os.getuid() if hasattr(os, 'getuid') else 0}"
