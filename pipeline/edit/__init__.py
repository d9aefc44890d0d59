"""Images edited by a checkpoint: variations of a strength, and regions remade under another class."""

from pipeline.edit.settings import EditSettings
from pipeline.edit.stage import plan_edit, run_edit

__all__ = ["EditSettings", "plan_edit", "run_edit"]
