"""Callbacks: how a policy learns (filtration, updates) and what people see of it (metrics, pictures, reports)."""

from ..modules.policy import PolicyCallback, PolicyUpdate

__all__ = ["PolicyCallback", "PolicyUpdate"]
