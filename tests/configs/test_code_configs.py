"""Every config of the code program runs for a step, by the command that its own header gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tamis.cli import run

CONFIGS = Path(__file__).parents[2] / "configs"
CODE = sorted(
    str(path.relative_to(CONFIGS))
    for path in [*CONFIGS.glob("code/*.yaml"), *CONFIGS.glob("quickstart/*.yaml")]
    if not path.name.startswith("phantoms")
)
BENCHMARKS = [f"code/{name}.yaml" for name in ("humaneval", "mbpp", "leetcode")]
# What a small machine changes in the configs of 7B: sizes, and where the data and the models are.
SMALL = [
    "--data.train=data/mbpp.jsonl[600:974]",
    "--data.batch_size=4",
    "--update.minibatch_size=4",
    "--model.max_new_tokens=8",
    "--model.critic_path=runs/quickstart/reward_model/model",
    "--model.reward.model_name_or_path=runs/quickstart/reward_model/model",
]
IN_THE_LOOP = ("raft", "bond", "iterative_dpo", "rloo", "grpo", "pf_ppo_bon", "pf_ppo_br", "pf_ppo_bw")
FAST = [f"quickstart/{name}.yaml" for name in ("ppo_s", "ppo_m")]
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
    if config.endswith("_7b.yaml"):
        flags += SMALL
    if config == "code/humaneval.yaml":  # the package with the tasks is an extra
        flags.append("--data.test=data/humaneval.jsonl")
    if config in BENCHMARKS or config in FAST:
        flags.append("--model.max_new_tokens=16")
    if Path(config).stem in IN_THE_LOOP:  # a quarter of the tasks
        flags += ["--model.max_new_tokens=16", "--data.batch_size=16", "--update.minibatch_size=16"]
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


@pytest.mark.parametrize(("group", "size", "pairs"), [("quickstart", "", 320), ("code", "_7b", 1280)])
def test_the_three_methods_differ_in_nothing_but_what_they_learn_from(group: str, size: str, pairs: int) -> None:
    configs = {}
    for method in ("ppo_s", "ppo_m", "pf_ppo"):
        config = yaml.safe_load((CONFIGS / group / f"{method}{size}.yaml").read_text())
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        n, batch = model.pop("num_samples"), data.pop("batch_size")
        assert n * batch == pairs
        assert n == (1 if method == "ppo_s" else 5)
        assert (config.pop("filter", {"init_args": {}})["init_args"].get("keep") == 2) == (method == "pf_ppo")
        configs[method] = config
    assert configs["ppo_s"] == configs["ppo_m"] == configs["pf_ppo"]


@pytest.mark.parametrize("method", IN_THE_LOOP)
def test_baselines_in_the_loop_differ_in_how_they_learn_only(method: str) -> None:
    """The same model, reward, tasks, answers, iterations and rate; a critic for PPO, and a filter where it says so."""
    configs = [yaml.safe_load((CONFIGS / "quickstart" / f"{name}.yaml").read_text()) for name in (method, "pf_ppo")]
    filters = [config.pop("filter", {"init_args": None})["init_args"] for config in configs]
    updates = [config.pop("update") for config in configs]
    for config in configs:
        for critic in ("critic", "critic_optimizer"):
            config["model"]["init_args"].pop(critic, None)
    assert configs[0] == configs[1]
    assert (updates[0] == updates[1]) == method.startswith("pf_ppo")
    kept = {"raft": "best_of_n", "bond": "best_of_n", "iterative_dpo": "best_worst", "rloo": None, "grpo": None,
            "pf_ppo_bon": "best_of_n", "pf_ppo_br": "best_random", "pf_ppo_bw": "best_worst"}[method]  # fmt: skip
    rows = 1 if kept == "best_of_n" else 2
    assert filters[0] == (None if kept is None else {"strategy": kept, "keep": rows})


def test_baselines_on_pairs_differ_in_the_loss_only() -> None:
    """And they read the pairs that the reward model reads."""
    configs = {}
    for loss in ("dpo", "ipo", "kto"):
        config = yaml.safe_load((CONFIGS / "quickstart" / f"{loss}.yaml").read_text())
        assert config["model"]["init_args"].pop("loss") == loss
        configs[loss] = config
    assert configs["dpo"] == configs["ipo"] == configs["kto"]
    reward_model = yaml.safe_load((CONFIGS / "quickstart" / "reward_model.yaml").read_text())
    assert configs["dpo"]["data"] == reward_model["data"]


def test_the_config_of_7b_has_the_paper_s_numbers() -> None:
    config = yaml.safe_load((CONFIGS / "code" / "pf_ppo_7b.yaml").read_text())
    model, update = config["model"]["init_args"], config["update"]["init_args"]
    assert model["policy_optimizer"]["init_args"] == {"lr": 5e-7, "betas": [0.9, 0.95], "weight_decay": 0.0}
    assert model["critic_optimizer"]["init_args"] == {"lr": 9e-6, "betas": [0.9, 0.95], "weight_decay": 0.0}
    assert model["critic_path"] == model["reward"]["init_args"]["model_name_or_path"]
    assert (model["num_samples"], model["temperature"]) == (5, 1.0)
    wanted = {"kl_coef": 0.01, "gamma": 1.0, "lam": 0.95, "clip_range": 0.2, "value_clip_range": 0.2, "epochs": 1}
    assert {name: update[name] for name in wanted} == wanted
    assert update["minibatch_size"] == 256


def test_every_config_is_run() -> None:
    """The ones above, in test_image_configs.py and in test_transfer_configs.py are all there are."""
    masks = ("baseline", "noise_mask", "random_mask", "finetune")
    images = {f"quickstart/phantoms_{stage}.yaml" for stage in (*masks, "monai_noise")}
    images |= {f"medmnist/{stage}.yaml" for stage in (*masks, "merged_baseline", "merged_noise_mask")}
    images |= {f"radimagenet/{stage}.yaml" for stage in ("baseline", "noise_mask", "finetune")}
    unseen = ("unseen_anatomy_pretraining", "unseen_anatomy")
    images |= {f"transfer/{stage}.yaml" for stage in ("linear_probe", "finetune", "few_shot", *unseen)}
    assert {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")} == images | set(CODE)
    assert len(CODE) == 29
