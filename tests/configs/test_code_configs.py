"""Every config of the code program runs for a step, by the command that its own header gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tamis.cli import run

CONFIGS = Path(__file__).parents[2] / "configs"
CODE = sorted(
    str(path.relative_to(CONFIGS))
    for path in [*CONFIGS.glob("code/*.yaml"), *CONFIGS.glob("quickstart/*.yaml")]
    if not path.name.startswith("phantoms")
)
BENCHMARKS = [f"code/{name}.yaml" for name in ("humaneval", "mbpp", "leetcode")]
ONE_STEP = {
    "fit": ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"],
    "predict": ["--trainer.limit_predict_batches=1"],
    "test": ["--trainer.limit_test_batches=1"],
}


@pytest.mark.parametrize("config", CODE)
def test_config(config: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    header = (CONFIGS / config).read_text().split("trainer:")[0]
    command = re.search(rf"tamis (\w+) --config configs/{config}", header)
    assert command is not None, f"{config} does not say how it is run"
    flags = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", *ONE_STEP[command[1]]]
    if config.startswith("code/"):
        flags.append("--model.model_name_or_path=runs/mbpp/sft/model")
    if config == "code/humaneval.yaml":  # the package with the tasks is an extra
        flags.append("--data.test=data/humaneval.jsonl")
    if config in BENCHMARKS:
        flags.append("--model.max_new_tokens=16")
    cli = run([command[1], f"--config={CONFIGS / config}", f"--run_dir={tmp_path / 'run'}", *flags])
    if command[1] == "fit":
        assert (tmp_path / "run" / "model" / "config.json").is_file()
        assert cli.trainer.global_step > 0
    elif command[1] == "test":
        rate = float(cli.trainer.callback_metrics["test/pass@1"])
        assert 0 <= rate <= 1
        if config in BENCHMARKS:
            result = json.loads((tmp_path / "run" / "results.json").read_text())
            assert result["metrics"]["pass@1"]["value"] == pytest.approx(rate)
            assert result["dataset"]["benchmarks"] == [config.removeprefix("code/").removesuffix(".yaml")]
            lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
            assert len(lines) == result["counts"]["samples"] > 0
    else:
        assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 128 * 5


def test_every_config_is_run() -> None:
    """The ones above and the ones in test_image_configs.py are all there are."""
    images = {f"quickstart/phantoms_{stage}.yaml" for stage in ("baseline", "noise_mask", "random_mask", "finetune")}
    images |= {f"{group}/{stage}.yaml" for group in ("medmnist", "radimagenet") for stage in
               ("baseline", "noise_mask", "finetune")}  # fmt: skip
    assert {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")} == images | set(CODE)
    assert len(CODE) == 11
