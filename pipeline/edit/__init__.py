"""The edit stage: variations of images, and regions that are generated anew with another class."""

from pipeline.edit.plan import plan_edit
from pipeline.edit.settings import EditSettings
from pipeline.edit.stage import run_edit

__all__ = ["EditSettings", "plan_edit", "run_edit"]
