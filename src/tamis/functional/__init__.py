"""The maths of both papers as pure functions of tensors; imports torch and nothing else."""

from .advantages import gae, last_step, leave_one_out_baseline, scale_by_group_std, shape_rewards
from .agreement import Estimate, RankAgreement, rank_agreement
from .class_balance import ClassWeighting, LabelKind, balanced_cross_entropy, class_weights, logit_offsets
from .divergence import Divergence, distinct_n, divergence
from .edit_distance import edit_distance
from .evaluation import (
    Interval,
    binomial_standard_error,
    bootstrap_interval,
    pass_at_k,
    pass_at_k_per_problem,
    wilson_interval,
)
from .gradient_signal import beta_score, split_half_cosine
from .losses import (
    KLEstimator,
    PPOStats,
    adapt_kl_coef,
    bradley_terry_loss,
    kl_divergence,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_loss,
)
from .masked import Denominators, LossAggregation, aggregate_loss, masked_mean, masked_whiten, weigh
from .noise import official_noise_objective, upsample_blur, upsample_blur_matrix
from .paired import Difference, moments, paired_difference, spread
from .preference import dpo_loss, ipo_loss, kto_loss, log_quantiles, response_log_ratios
from .reliability import Binning, RSquared, r_squared
from .selection import SelectionMode, Strategy, select, selection_weights

__all__ = [
    "Strategy",
    "SelectionMode",
    "selection_weights",
    "select",
    "shape_rewards",
    "last_step",
    "gae",
    "leave_one_out_baseline",
    "scale_by_group_std",
    "LossAggregation",
    "Denominators",
    "masked_mean",
    "weigh",
    "masked_whiten",
    "aggregate_loss",
    "PPOStats",
    "ppo_policy_loss",
    "ppo_value_loss",
    "reinforce_loss",
    "KLEstimator",
    "kl_divergence",
    "adapt_kl_coef",
    "bradley_terry_loss",
    "edit_distance",
    "response_log_ratios",
    "dpo_loss",
    "ipo_loss",
    "kto_loss",
    "log_quantiles",
    "Binning",
    "RSquared",
    "r_squared",
    "Estimate",
    "RankAgreement",
    "rank_agreement",
    "Divergence",
    "divergence",
    "distinct_n",
    "pass_at_k",
    "pass_at_k_per_problem",
    "Interval",
    "bootstrap_interval",
    "binomial_standard_error",
    "wilson_interval",
    "official_noise_objective",
    "upsample_blur",
    "upsample_blur_matrix",
    "beta_score",
    "split_half_cosine",
    "Difference",
    "moments",
    "spread",
    "paired_difference",
    "ClassWeighting",
    "LabelKind",
    "class_weights",
    "logit_offsets",
    "balanced_cross_entropy",
]
