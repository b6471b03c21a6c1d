"""Batched sampling from causal language models with a key-value cache."""

from .sampling import Samples, sample

__all__ = ["Samples", "sample"]
