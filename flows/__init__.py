"""Prefect and the command line: thin tasks around the functions of `pipeline`."""

import os

# Read when torch is loaded: what Apple's MPS cannot compute is then computed on the CPU instead of failing.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
