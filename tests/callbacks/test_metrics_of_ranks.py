"""What two processes log of their halves of a batch is what one logs of all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tamis.callbacks import PPOUpdate, RolloutMetrics

from .fixed import tokens

SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(tokens.__file__).parent)!r})
import torch
from tokens import Tokens, fit
from tamis.callbacks import PPOUpdate, RolloutMetrics

if __name__ == "__main__":
    trainer = fit(Tokens(), RolloutMetrics(), PPOUpdate(kl_coef=0.3), processes=2)
    torch.save(trainer.callback_metrics, sys.argv[1] + f"/{{trainer.global_rank}}")
"""


def test_numbers_are_of_all_ranks_together(tmp_path: Path) -> None:
    """The short rows lie on the first rank: a mean of the ranks' means or deviations would show."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one = tokens.fit(tokens.Tokens(), RolloutMetrics(), PPOUpdate(kl_coef=0.3)).callback_metrics
    names = {name for name in one if name.startswith("rollout/") or name.endswith("_max") or "/lr_" in name}
    assert len(names) == 15
    for rank in range(2):
        logged = torch.load(tmp_path / str(rank), weights_only=True)
        assert logged.keys() == one.keys()
        for name in names:
            assert float(logged[name]) == pytest.approx(float(one[name]), rel=1e-5, abs=1e-6), name
    drawn = tokens.Tokens().drawn
    assert drawn.rewards is not None
    assert float(one["rollout/reward_std"]) == pytest.approx(float(drawn.rewards.std(correction=0)), rel=1e-5)
    assert float(one["rollout/length_mean"]) == pytest.approx(63 / 16)
