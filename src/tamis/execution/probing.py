"""Says which layers of isolation this machine offers, by trying them."""

from __future__ import annotations

from .levels import LEVELS, try_level


def probe() -> dict[str, str]:
    """Tries each level on throw-away programs (under a second); nothing is inferred from version numbers.

    Returns:
        For each level, a line that begins with ``yes`` or ``no``.
    """
    reasons = {level: try_level(level) for level in LEVELS}
    return {level: f"no: {reason}" if reason else "yes" for level, reason in reasons.items()}
