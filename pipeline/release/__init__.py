"""Release: the accepted candidates of a gated audit as a dataset that may leave, whole or not at all."""

from pipeline.release.settings import ReleaseSettings
from pipeline.release.stage import release_inputs_digest, run_release
from pipeline.release.verify import verify_release

__all__ = ["ReleaseSettings", "release_inputs_digest", "run_release", "verify_release"]
