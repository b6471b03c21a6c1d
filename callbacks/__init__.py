"""Callbacks: how a policy learns (filtration, updates) and what people see of it (metrics, pictures, reports)."""

from ..modules.policy import PolicyCallback, PolicyUpdate
from .export import ModelExport
from .filtration import Filtration
from .metrics import RolloutMetrics
from .ppo import PPOUpdate
from .preference_writer import PreferenceWriter
from .reinforce import ReinforceUpdate

__all__ = [
    "PolicyCallback",
    "PolicyUpdate",
    "Filtration",
    "PPOUpdate",
    "ReinforceUpdate",
    "RolloutMetrics",
    "PreferenceWriter",
    "ModelExport",
]
