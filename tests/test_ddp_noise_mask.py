"""Two processes train one noise mask: its running averages are over the images of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys

import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import MaskDiagnostics, ReinforceUpdate
from tamis.modules import NoiseMaskPretraining

if __name__ == "__main__":
    seed_everything(0, verbose=False)
    module = NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=3, grid=4, kernel_size=5, decay=0.9)
    start, heads = module.policy.base_alpha.clone(), []
    module.policy.alpha_head.register_forward_hook(
        lambda head, _, output: heads.append(output.detach().mean(dim=0)) if head.training else None
    )
    data = TensorDataset(torch.randn(16, 3, 32, 32), torch.arange(16) % 3)
    diagnostics = MaskDiagnostics(images=8, draws=1, gradient_draws=4, gradient_images=4)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[diagnostics, ReinforceUpdate()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=4), DataLoader(data, batch_size=4))
    found = {
        "start": start,
        "heads": torch.stack(heads[1::2]),  # the twin, a copy with its hooks, looks at each batch first
        "average": module.policy.base_alpha,
        "policy": torch.cat([parameter.detach().flatten() for parameter in module.parameters()]),
        "twin": diagnostics.twin.base_alpha,
        "measured": torch.tensor([difference.mean for difference in diagnostics.last.differences.values()]),
    }
    torch.save(found, f"{sys.argv[1]}/rank{trainer.global_rank}.pt")
"""


def test_averages_are_over_the_images_of_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    steps = (ranks[0]["heads"] + ranks[1]["heads"]) / 2
    assert len(steps) == 2
    assert not torch.allclose(ranks[0]["heads"], ranks[1]["heads"])  # each rank has images of its own
    expected = 0.99 * (0.99 * ranks[0]["start"] + 0.01 * steps[0]) + 0.01 * steps[1]
    torch.testing.assert_close(ranks[0]["average"], expected)
    for name in ("average", "policy", "twin", "measured"):
        torch.testing.assert_close(ranks[0][name], ranks[1][name], atol=0, rtol=0)
