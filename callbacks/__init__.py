"""Callbacks: how a policy learns (filtration, updates) and what people see of it (metrics, pictures, reports)."""

from ..modules.policy import PolicyCallback, PolicyUpdate
from .checkpoints import RunCheckpoints
from .classification_report import ClassificationReport
from .completion_table import CompletionTable
from .environment import EnvironmentUpdate
from .export import ModelExport
from .fault_guard import FaultGuard
from .filtration import Filtration
from .imitation import ImitationUpdate
from .mask_diagnostics import MaskDiagnostics
from .mask_gallery import MaskGallery
from .metrics import RolloutMetrics
from .ppo import PPOUpdate
from .preference import PreferenceUpdate
from .preference_writer import PreferenceWriter
from .reinforce import ReinforceUpdate
from .reliability import RewardReliability
from .rollout_table import RolloutTable
from .weight_averaging import LastEpochsAverage

__all__ = [
    "PolicyCallback",
    "PolicyUpdate",
    "Filtration",
    "PPOUpdate",
    "ReinforceUpdate",
    "ImitationUpdate",
    "PreferenceUpdate",
    "EnvironmentUpdate",
    "RolloutMetrics",
    "MaskGallery",
    "MaskDiagnostics",
    "PreferenceWriter",
    "RewardReliability",
    "ClassificationReport",
    "CompletionTable",
    "RolloutTable",
    "ModelExport",
    "LastEpochsAverage",
    "FaultGuard",
    "RunCheckpoints",
]
