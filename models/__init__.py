"""Tensors only: the denoiser, its objective, samplers, EMA and checkpoint format; no access to scan files."""

import getpass
import os

try:
    getpass.getuser()
except (KeyError, ImportError, OSError):
    # A uid without an entry in passwd, as in a container: MONAI and torch.compile need its name and fail.
    os.environ["LOGNAME"] = f"uid-{os.getuid() if hasattr(os, 'getuid') else 0}"
