"""Batched sampling from causal language models with a key-value cache."""

from .choosing import row_noise
from .reference import sample_with_transformers
from .sampling import Samples, sample
from .stopping import StopStrings, cut_at_stop, decode

__all__ = ["Samples", "sample", "sample_with_transformers", "row_noise", "StopStrings", "cut_at_stop", "decode"]
