"""Two gloo ranks on this CPU that are started once and then run one scenario after the other."""

from .command import tamis
from .harness import Ranks

__all__ = ["Ranks", "tamis"]
