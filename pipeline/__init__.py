"""Files and stages: plain functions from one directory to the next, callable without any scheduler."""

__version__ = "0.1.0"
