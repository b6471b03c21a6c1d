"""LightningModules: what a policy is, and the supervised stages around it."""

from .policy import ActionEvaluation, PolicyCallback, PolicyModule, PolicyUpdate

__all__ = ["ActionEvaluation", "PolicyCallback", "PolicyModule", "PolicyUpdate"]
