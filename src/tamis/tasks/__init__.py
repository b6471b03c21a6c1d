"""Generates small Python programming tasks, and demonstrations with the bugs that people make.

summary = write_tasks("data/tasks", seed=0)
"""

from .bugs import BUGS, Bug, corrupt, demonstrate
from .files import TaskSummary, write_tasks
from .generator import Task, TaskGenerator, TaskSplits

__all__ = [
    "BUGS",
    "Bug",
    "Task",
    "TaskGenerator",
    "TaskSplits",
    "TaskSummary",
    "corrupt",
    "demonstrate",
    "write_tasks",
]
