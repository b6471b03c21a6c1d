"""Every config of the code program runs for a step, by the command that its own header gives."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tamis.cli import run
from tamis.modules.language_model import load_tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"
CODE = sorted(
    str(path.relative_to(CONFIGS))
    for path in [*CONFIGS.glob("code/*.yaml"), *CONFIGS.glob("quickstart/*.yaml")]
    if not path.name.startswith("phantoms")
)
ONE_STEP = {
    "fit": ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"],
    "predict": ["--trainer.limit_predict_batches=1"],
    "test": ["--trainer.limit_test_batches=1"],
}


@pytest.fixture(scope="module")
def workspace(quickstart: Path, reward_folder: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the configs name, where they name them, made small."""
    root = tmp_path_factory.mktemp("workspace")
    tokenizer = load_tokenizer(str(quickstart / "untrained"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name in ("quickstart/untrained", "quickstart/sft/model", "quickstart/pf_ppo/model", "mbpp/sft/model"):
        shutil.copytree(quickstart / "untrained", root / "runs" / name)
        tokenizer.save_pretrained(root / "runs" / name)
    shutil.copytree(reward_folder, root / "runs" / "quickstart" / "reward_model" / "model")
    shutil.copytree(quickstart / "tasks", root / "runs" / "quickstart" / "tasks")
    tasks = root / "runs" / "quickstart" / "tasks" / "train.jsonl"
    tasks.write_text(tasks.read_text() * 25)  # as many rows as the configs' ranges reach for
    (root / "runs" / "quickstart" / "preferences").mkdir()
    shutil.copy(pairs, root / "runs" / "quickstart" / "preferences" / "pairs.jsonl")
    task = {"text": "Double x.", "code": "def f(x):\n    return 2 * x", "test_list": ["assert f(1) == 2"]}
    rows = [{"task_id": number, "test_setup_code": "", **task} for number in range(1, 975)]
    (root / "data").mkdir()
    (root / "data" / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize("config", CODE)
def test_config(config: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    header = (CONFIGS / config).read_text().split("trainer:")[0]
    command = re.search(rf"tamis (\w+) --config configs/{config}", header)
    assert command is not None, f"{config} does not say how it is run"
    flags = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", *ONE_STEP[command[1]]]
    if config.startswith("code/"):
        flags.append("--model.model_name_or_path=runs/mbpp/sft/model")
    cli = run([command[1], f"--config={CONFIGS / config}", f"--run_dir={tmp_path / 'run'}", *flags])
    if command[1] == "fit":
        assert (tmp_path / "run" / "model" / "config.json").is_file()
        assert cli.trainer.global_step > 0
    elif command[1] == "test":
        assert 0 <= float(cli.trainer.callback_metrics["test/pass@1"]) <= 1
    else:
        assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 128 * 5


def test_every_config_is_run() -> None:
    """The ones above and the ones in test_image_configs.py are all there are."""
    images = {f"quickstart/phantoms_{stage}.yaml" for stage in ("baseline", "noise_mask", "random_mask", "finetune")}
    images |= {f"{group}/{stage}.yaml" for group in ("medmnist", "radimagenet") for stage in
               ("baseline", "noise_mask", "finetune")}  # fmt: skip
    assert {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")} == images | set(CODE)
    assert len(CODE) == 9
