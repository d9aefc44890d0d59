"""The release stage: publishes the accepted candidates of an audit as a dataset, completely or not at all."""

from pipeline.release.settings import ReleaseSettings
from pipeline.release.stage import run_release
from pipeline.release.verify import verify_release

__all__ = ["ReleaseSettings", "run_release", "verify_release"]
