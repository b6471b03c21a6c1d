"""LightningModules: what a policy is, and the supervised stages around it."""

from .code_policy import CodePolicy
from .custom_rewards import PythonReward, WeightedReward
from .image_classifier import ImageClassifier
from .noise_mask import NoiseMaskPretraining
from .policy import ActionEvaluation, PolicyCallback, PolicyModule, PolicyUpdate
from .preference_optimization import PreferenceOptimization
from .reward_model import RewardModel
from .rewards import LearnedReward, Reward, UnitTests
from .sound_steps import RepeatedFaults
from .supervised import SupervisedFineTuning

__all__ = [
    "SupervisedFineTuning",
    "RewardModel",
    "PreferenceOptimization",
    "CodePolicy",
    "NoiseMaskPretraining",
    "ImageClassifier",
    "Reward",
    "LearnedReward",
    "UnitTests",
    "PythonReward",
    "WeightedReward",
    "PolicyModule",
    "PolicyCallback",
    "PolicyUpdate",
    "ActionEvaluation",
    "RepeatedFaults",
]
