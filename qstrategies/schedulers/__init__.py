"""What computes the stages of a comparison: one file each."""

from qstrategies.registry import Registry
from qstrategies.schedulers.base import Scheduler

SCHEDULERS: Registry[type[Scheduler]] = Registry("scheduler", __name__)
"""By name; each is made with what performs a stage, and ``Resources``."""
register = SCHEDULERS.register
